"""Read attribution maps that other programs wrote as NPY or NPZ. Nothing in a file is unpickled."""

from __future__ import annotations

import json
import lzma
import math
import struct
import tokenize
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import InputError
from xplain.core.files import DAMAGED
from xplain.data.npy_format import read_npy_data, read_npy_header

SUFFIXES = (".npy", ".npz")
ATTRIBUTION, RECORD = "attribution", "record"  # arrays of the NPZ files that xplain writes
NOT_MAPS = (RECORD, "image")
MAX_RECORD_BYTES = 1 << 24
UNREADABLE = (*DAMAGED, RecursionError, OverflowError, struct.error, tokenize.TokenError, lzma.LZMAError)


class MapError(InputError):
    """A map that cannot be used. reason: why, without the name of the file, so that maps can be counted by it."""

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.reason = reason


class MapFile(NamedTuple):
    """The content of a file. values: float64 (C, H, W). record: of files that xplain wrote, else {}."""

    values: Floats
    record: dict[str, Any]


def read_map(stream: BinaryIO, name: str, size: tuple[int, int], channels: int = 3) -> MapFile:
    """Read a map for a model input of ``size`` (height, width). name: of the file; ``.npz`` selects the format.

    channels: of the model input; a map has as many or one.

    An NPZ holds the map as ``attribution``, or holds no other array than the map. The data of a map of another shape are not read.
    Raises MapError.
    """
    try:
        if name.lower().endswith(".npz"):
            with zipfile.ZipFile(stream) as archive:
                with archive.open(f"{_find_array(archive, name)}.npy") as member:
                    values = _read_values(member, name, size, channels)  # type: ignore[arg-type]  # has no writelines
                return MapFile(values, _read_record(archive))
        return MapFile(_read_values(stream, name, size, channels), {})
    except MapError:
        raise
    except UNREADABLE as error:
        raise _unreadable(f"cannot read the map {name!r}: {error or type(error).__name__}", "write it again") from None


def read_map_record(path: Path) -> dict[str, Any]:
    """Return the record of an NPZ file that holds an attribution; {} if it has none or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_record(archive) if f"{ATTRIBUTION}.npy" in archive.namelist() else {}
    except UNREADABLE:
        return {}


def _unreadable(message: str, hint: str) -> MapError:
    return MapError("the map cannot be read", message, hint)


def _find_array(archive: zipfile.ZipFile, name: str) -> str:
    """Return the name of the array that is the map. Raises MapError if several arrays could be."""
    names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
    candidates = [array for array in names if array not in NOT_MAPS]
    if ATTRIBUTION in candidates:
        return ATTRIBUTION
    if len(candidates) != 1:
        listed = ", ".join(map(repr, sorted(candidates)[:5])) or "none"
        raise _unreadable(f"{name!r} holds {len(candidates)} arrays ({listed})", f"name the map {ATTRIBUTION!r}")
    return candidates[0]


def _read_values(stream: BinaryIO, name: str, size: tuple[int, int], channels: int) -> Floats:
    """Read one array in NPY format. Raises MapError unless it holds finite real numbers in the right shape."""
    header = read_npy_header(stream)
    if header.dtype.hasobject:
        raise _unreadable(f"{name!r} holds pickled Python objects, which are not loaded", "write an array of numbers")
    if header.dtype.kind not in "fiub":
        raise _unreadable(f"{name!r} holds values of type {header.dtype}", "write real numbers, such as float32")
    if not _fits(header.shape, size, channels):
        height, width = size
        raise MapError(
            "the map has the wrong shape",
            f"{name!r} has the shape {header.shape}, but the model's input is {height} x {width}",
            f"write (H, W) or (C, H, W) with C = 1 or {channels}",
        )
    array = read_npy_data(stream, header)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and long doubles that become infinite are reported
        values: Floats = array.reshape(-1, *size).astype(np.float64)
    if not np.isfinite(values).all():
        raise MapError("the map is not finite", f"the map {name!r} holds NaN or infinite values", "compute it again")
    return values


def _fits(shape: tuple[int, ...], size: tuple[int, int], channels: int) -> bool:
    """Return whether an array is (H, W) or (C, H, W) with one channel or as many as the model input."""
    return shape[-2:] == size and shape[:-2] in ((), (1,), (channels,))


def _read_record(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the record that xplain stored in an NPZ file as JSON text, or {} if the file holds none."""
    if f"{RECORD}.npy" not in archive.namelist():
        return {}
    with archive.open(f"{RECORD}.npy") as stream:
        header = read_npy_header(stream)  # type: ignore[arg-type]
        if header.dtype.kind != "U" or math.prod(header.shape) * header.dtype.itemsize > MAX_RECORD_BYTES:
            return {}
        record = json.loads(str(read_npy_data(stream, header)))  # type: ignore[arg-type]
    return record if isinstance(record, dict) else {}
