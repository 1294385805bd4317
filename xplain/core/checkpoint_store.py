"""Save and load checkpoints of a resumable computation, in a directory or in memory."""

from __future__ import annotations

import copy
import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from xplain.core.errors import InputError, first_line
from xplain.core.files import write_file

State = dict[str, Any]  # nested tensors, numbers and texts


class CheckpointStore(Protocol):
    """Checkpoints by name. A name is a relative path without suffix."""

    def load(self, name: str) -> State | None:
        """Return a checkpoint with its tensors on the CPU, or None if there is none."""

    def save(self, name: str, state: State) -> None:
        """Save a checkpoint; replaces an older one of the same name."""

    def delete(self, name: str) -> None:
        """Delete the checkpoints in the folder ``name``. Does nothing if there are none."""


@dataclass(frozen=True)
class DirectoryCheckpoints:
    """Checkpoints as files ``<path>/<name>.pt``. Loading runs no code from them (``weights_only``)."""

    path: Path

    def load(self, name: str) -> State | None:
        """Return a checkpoint, or None if there is none. Raises InputError if the file is damaged."""
        path = self._file(name)
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # damaged files raise many types
            raise InputError(
                f"cannot resume from checkpoint {str(path)!r}: {first_line(error)}", "remove the file to start over"
            ) from None
        return state

    def save(self, name: str, state: State) -> None:
        """Write a checkpoint atomically. Raises InputError if the file cannot be written."""
        stream = io.BytesIO()
        torch.save(state, stream)
        write_file(self._file(name), stream.getvalue())

    def delete(self, name: str) -> None:
        """Delete the folder ``name``. Does nothing if there is none."""
        shutil.rmtree(self.path / name, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.pt"


@dataclass(frozen=True)
class MemoryCheckpoints:
    """Checkpoints in memory, for computations that no other process resumes."""

    states: dict[str, State] = field(default_factory=dict)

    def load(self, name: str) -> State | None:
        """Return a checkpoint, or None if there is none."""
        return self.states.get(name)

    def save(self, name: str, state: State) -> None:
        """Save a copy, so that later changes of the tensors do not affect it."""
        self.states[name] = copy.deepcopy(state)

    def delete(self, name: str) -> None:
        """Delete the checkpoints in the folder ``name``. Does nothing if there are none."""
        for key in [key for key in self.states if key.startswith(f"{name}/")]:
            del self.states[key]
