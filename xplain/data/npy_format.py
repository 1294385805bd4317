"""Read arrays in NPY format, header first, so that nothing is unpickled and the size is known before data are read."""

from __future__ import annotations

import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np


class NpyHeader(NamedTuple):
    """The shape, memory order and type of an array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]


def read_npy_header(stream: BinaryIO) -> NpyHeader:
    """Read the header of an NPY file. Raises ValueError for other files."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return NpyHeader(*np.lib.format.read_array_header_1_0(stream))
    if version == (2, 0):
        return NpyHeader(*np.lib.format.read_array_header_2_0(stream))
    raise ValueError(f"its NPY version is {version[0]}.{version[1]}, not 1.0 or 2.0")


def read_npy_data(stream: BinaryIO, header: NpyHeader) -> np.ndarray[Any, np.dtype[Any]]:
    """Read the data that follow a header. Raises ValueError if the file is too short."""
    length = math.prod(header.shape) * header.dtype.itemsize
    content = stream.read(length)
    if len(content) < length:
        raise ValueError(f"it ends after {len(content)} of {length} bytes of data")
    order = "F" if header.fortran_order else "C"
    return np.frombuffer(content, dtype=header.dtype).reshape(header.shape, order=order)  # type: ignore[call-overload]
