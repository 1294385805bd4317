"""The files of a comparison: load existing ones, start, finish or discard the folder of an unfinished one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xplain.core.errors import UsageError
from xplain.core.files import touch, write_file, write_json

RECORD = "compare.json"
PART = "compare.part"  # folder with the finished cells of an unfinished comparison
ABOUT = "about.json"  # in it: the fingerprint of that comparison


def check_folder(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Check, before anything is computed, that a comparison wrote the existing files.

    Raises UsageError for the first of ``names`` that exists in a folder without a comparison's record.
    """
    if not overwrite and _read_json(folder / RECORD) is None and _read_json(folder / PART / ABOUT) is None:
        _check_absent(folder, names)


def choose_folder(folder: Path, fingerprint: str, former: Path | None = None) -> Path:
    """Return the folder of a comparison, or one beside it with the fingerprint in its name if it has another comparison.

    former: the folder that an earlier version used, which is returned if it has this comparison.
    """
    for existing in filter(None, (folder, former)):
        records = (_read_json(existing / RECORD), _read_json(existing / PART / ABOUT))
        if any(_has_fingerprint(record, fingerprint) for record in records):
            return existing
    if (folder / RECORD).exists() or (folder / PART / ABOUT).exists():
        return folder.with_name(f"{folder.name}-{fingerprint[:8]}")
    return folder


def load_existing(folder: Path, names: Sequence[str], fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of the same comparison if all its files exist, else None.

    Raises UsageError for the first of ``names`` that another comparison wrote.
    """
    if overwrite or _has_fingerprint(_read_json(folder / PART / ABOUT), fingerprint):
        return None
    record = _read_json(folder / RECORD)
    if not _has_fingerprint(record, fingerprint):
        _check_absent(folder, names)
        return None
    if not all((folder / name).exists() for name in names):
        return None
    if _read_json(folder / PART / ABOUT) is None:  # an interruption of ``finish`` left some of the cells
        shutil.rmtree(folder / PART, ignore_errors=True)
    touch(folder / name for name in (*names, RECORD))
    return record


def start(folder: Path, fingerprint: str) -> Path:
    """Create the directory for finished cells, store the fingerprint in it and return its path.

    Raises InputError if the directory cannot be created.
    """
    write_json(folder / PART / ABOUT, {"fingerprint": fingerprint})
    return folder / PART


def discard(folder: Path) -> None:
    """Remove a comparison without results, and its folder if that is empty."""
    shutil.rmtree(folder / PART, ignore_errors=True)
    with suppress(OSError):  # the folder holds other files
        folder.rmdir()


def finish(folder: Path, contents: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write each file atomically and remove the finished cells.

    The record is written last, so its existence implies that all other files exist.
    """
    for name, content in contents.items():
        write_file(folder / name, content)
    write_json(folder / RECORD, record)
    shutil.rmtree(folder / PART, ignore_errors=True)


def _has_fingerprint(record: Mapping[str, Any] | None, fingerprint: str) -> bool:
    return record is not None and record.get("fingerprint") == fingerprint


def _check_absent(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = folder / name
        if path.exists():
            raise UsageError(
                f"{str(path)!r} already exists and was not written by this comparison",
                "use --overwrite or another --output",
            )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
