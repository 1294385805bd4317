"""Recognize what xplain wrote, so that no command reads its own output as images."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from xplain.core.files import DAMAGED

DEFAULT_OUTPUTS = frozenset(("xplain-out", "xplain-compare", "xplain-runs"))  # names of output folders
RECORDS = {  # keys of the records that mark an output folder, by file
    "run.json": ("fingerprint", "methods", "metrics"),
    "compare.json": ("fingerprint", "files"),
    "compare.part/about.json": ("fingerprint",),
}
FIGURES = frozenset(
    ("compare.png", "agreement.png", "compare.svg", "agreement.svg")
)  # of compare, which hold no record
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
KEYWORD = b"xplain\0"  # of the text chunk that holds the record


def is_own_picture(path: Path) -> bool:
    """Return whether xplain wrote a picture: a PNG that holds a record, or a figure next to the record of ``compare``."""
    if path.name in FIGURES and has_record(path.parent):
        return True
    if path.suffix.lower() != ".png":
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            return False
        with path.open("rb") as stream:
            return _holds_record(stream)
    except (OSError, ValueError):
        return False


def _holds_record(stream: BinaryIO) -> bool:
    """Return whether a PNG has a text chunk of xplain before its pixels. Reads the heads of the chunks only."""
    if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        return False
    while len(head := stream.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return False
        start = stream.read(min(size, len(KEYWORD)))
        if kind in TEXT_CHUNKS and start == KEYWORD:
            return True
        stream.seek(size - len(start) + 4, os.SEEK_CUR)  # 4 bytes of checksum
    return False


def has_record(folder: Path) -> bool:
    """Return whether a folder holds the record of a run of ``evaluate``, or of a comparison."""
    return any(_is_record(folder / name, keys) for name, keys in RECORDS.items())


def _is_record(path: Path, keys: tuple[str, ...]) -> bool:
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def is_own_file(path: Path) -> bool:
    """Return whether xplain wrote a picture, or an NPZ file that holds a record."""
    if path.suffix.lower() != ".npz":
        return is_own_picture(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return "record.npy" in archive.namelist()
    except (*DAMAGED, struct.error):
        return False


def is_in_own_folder(path: Path, root: Path) -> bool:
    """Return whether a folder on the way from ``root`` to a file is named or marked as output of xplain."""
    folders = path.relative_to(root).parents[:-1]  # without ``root``
    return any(folder.name in DEFAULT_OUTPUTS or has_record(root / folder) for folder in folders)
