"""The files of a comparison: what is there already, and writing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xplain.errors import UsageError
from xplain.files import write_file

RECORD = "compare.json"


def check_folder(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse files that no comparison wrote, before anything is computed. Raises UsageError naming the first."""
    if not overwrite and _read(folder) is None:
        _refuse([folder / name for name in names])


def kept(folder: Path, names: Sequence[str], fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of the same comparison where all its files are there; else None.

    Raises UsageError naming the first file that is there from another one.
    """
    if overwrite:
        return None
    there = _read(folder)
    if there is None or there.get("fingerprint") != fingerprint:
        _refuse([folder / name for name in names])
        return None
    return there if all((folder / name).exists() for name in names) else None


def _refuse(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            raise UsageError(f"{str(path)!r} is there from something else", "give --overwrite or another --output")


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_all(folder: Path, contents: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write every file by rename; the record last, so that it is there only where the others are."""
    for name, content in contents.items():
        write_file(folder / name, content)
    write_file(folder / RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
