"""The files of a comparison: what is there already, what an interruption left of it, and writing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xplain.core.errors import UsageError
from xplain.core.files import write_file, write_json

RECORD = "compare.json"
PART = "compare.part"  # a folder with what is finished of a comparison that is not
ABOUT = "about.json"  # in it: which comparison


def check_folder(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse files that no comparison wrote, before anything is computed. Raises UsageError naming the first."""
    if not overwrite and _read(folder / RECORD) is None and _read(folder / PART / ABOUT) is None:
        _refuse([folder / name for name in names])


def kept(folder: Path, names: Sequence[str], fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of the same comparison where all its files are there; else None.

    Raises UsageError naming the first file that is there from another one.
    """
    if overwrite or _is(_read(folder / PART / ABOUT), fingerprint):
        return None
    there = _read(folder / RECORD)
    if not _is(there, fingerprint):
        _refuse([folder / name for name in names])
        return None
    return there if all((folder / name).exists() for name in names) else None


def begin(folder: Path, fingerprint: str) -> Path:
    """The folder for what is finished before all is; it says which comparison is being made. Raises InputError."""
    write_json(folder / PART / ABOUT, {"fingerprint": fingerprint})
    return folder / PART


def drop(folder: Path) -> None:
    """Leave nothing of a comparison that came to nothing."""
    shutil.rmtree(folder / PART, ignore_errors=True)
    with suppress(OSError):  # where something else is in it
        folder.rmdir()


def write_all(folder: Path, contents: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write every file by rename; the record last, so that it is there only where the others are."""
    for name, content in contents.items():
        write_file(folder / name, content)
    write_json(folder / RECORD, record)
    shutil.rmtree(folder / PART, ignore_errors=True)


def _is(record: Mapping[str, Any] | None, fingerprint: str) -> bool:
    return record is not None and record.get("fingerprint") == fingerprint


def _refuse(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            raise UsageError(f"{str(path)!r} is there from something else", "give --overwrite or another --output")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
