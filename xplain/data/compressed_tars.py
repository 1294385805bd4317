"""Decompress tar files to temporary files, so that their images can be read in any order."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

from xplain.core.errors import InputError, emit_note

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OPENERS: dict[bytes, Callable[[Path], BinaryIO]] = {  # by the first bytes of a file
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
    b"BZh": bz2.open,  # type: ignore[dict-item]
    b"\xfd7zXZ\0": lzma.open,  # type: ignore[dict-item]
}


def is_tar_name(name: str) -> bool:
    """Return whether a file name is that of a tar file, compressed or not."""
    return name.lower().endswith(TAR_SUFFIXES)


def list_tars(folder: Path) -> list[Path]:
    """Return the tar files of a folder, sorted. Of ``a.tar`` and ``a.tar.gz``, only ``a.tar`` is returned, and a note says so."""
    names = sorted(file.name for file in folder.glob("*") if is_tar_name(file.name) and file.name[0] != ".")
    copies = [name for name in names if f"{_remove_suffix(name)}.tar" in names and not name.endswith(".tar")]
    if copies:
        emit_note(f"compressed copies of tar files that are not read: {len(copies)}, such as {copies[0]!r}")
    return [folder / name for name in names if name not in copies]


def _remove_suffix(name: str) -> str:
    """Return the name of a tar file without its suffixes."""
    return next(
        name[: -len(suffix)] for suffix in sorted(TAR_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)
    )


def uncompressed_tar(path: Path) -> Path:
    """Return the path of a tar file whose members can be read by position: ``path``, or a temporary copy if it is compressed.

    The copy is deleted when the program ends. Raises InputError if the file cannot be decompressed, and OSError if it cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    status = path.stat()
    return _decompress(path.absolute(), opener, status.st_mtime_ns, status.st_size)


@cache
def _decompress(path: Path, opener: Callable[[Path], BinaryIO], _modified: int, _size: int) -> Path:
    handle, name = tempfile.mkstemp(suffix=".tar", dir=_make_folder().name)
    try:
        with os.fdopen(handle, "wb") as target, opener(path) as source:
            shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        Path(name).unlink()
        raise InputError(
            f"cannot decompress {str(path)!r}: {error}", "restore the file, or set TMPDIR to a folder with enough space"
        ) from None
    return Path(name)


@cache
def _make_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted when the program ends."""
    return tempfile.TemporaryDirectory(prefix="xplain-")
