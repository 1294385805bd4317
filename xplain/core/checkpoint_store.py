"""The states of a long computation, by name: in a folder, where an interruption leaves each whole or not there, or in memory."""

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

State = dict[str, Any]  # tensors, numbers and text, nested


class CheckpointStore(Protocol):
    """Where states are kept. Names are relative paths without a suffix."""

    def load(self, name: str) -> State | None:
        """The state of a name, its tensors on the CPU; None when there is none."""

    def save(self, name: str, state: State) -> None:
        """Keep a state, in place of an older one of its name."""

    def delete(self, name: str) -> None:
        """Forget the states whose names start with the folder ``name``."""


@dataclass(frozen=True)
class DirectoryCheckpoints:
    """States as files; written by rename, and nothing in them is executed when they are read."""

    path: Path

    def load(self, name: str) -> State | None:
        """Raises InputError when the file is not what ``save`` wrote."""
        path = self._file(name)
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # damaged files raise many kinds
            why = f"cannot go on from {str(path)!r}: {first_line(error)}"
            raise InputError(why, "delete it, and it is made anew") from None
        return state

    def save(self, name: str, state: State) -> None:
        """Raises InputError when the folder cannot be written."""
        stream = io.BytesIO()
        torch.save(state, stream)
        write_file(self._file(name), stream.getvalue())

    def delete(self, name: str) -> None:
        """What is not there is no error."""
        shutil.rmtree(self.path / name, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.pt"


@dataclass(frozen=True)
class MemoryCheckpoints:
    """States in memory, for computations that are not to be continued by another process."""

    states: dict[str, State] = field(default_factory=dict)

    def load(self, name: str) -> State | None:
        """As it was saved."""
        return self.states.get(name)

    def save(self, name: str, state: State) -> None:
        """A copy, which later changes of the tensors leave alone."""
        self.states[name] = copy.deepcopy(state)

    def delete(self, name: str) -> None:
        """What is not there is no error."""
        for each in [each for each in self.states if each.startswith(f"{name}/")]:
            del self.states[each]
