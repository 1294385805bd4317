"""Read images of any number of bands from NPY and NPZ files. Nothing in a file is unpickled."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from xplain.core.errors import InputError
from xplain.core.files import DAMAGED
from xplain.data.bands import BandImage, PixelFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

NPY_START, ZIP_START = b"\x93NUMPY", b"PK\x03\x04"
IMAGE = "image"  # the array that is read if a file has several
UNREADABLE = (*DAMAGED, RecursionError, OverflowError, struct.error, tokenize.TokenError, NotImplementedError)
MAX_VALUES = 1 << 29  # of an array; a compressed file of a few bytes can hold any number


def is_array(content: bytes) -> bool:
    """Return whether the bytes of a file are NPY, or a ZIP archive of NPY files."""
    if content.startswith(NPY_START):
        return True
    if not content.startswith(ZIP_START):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(member.endswith(".npy") for member in archive.namelist())
    except UNREADABLE:
        return False


def read_array_image(content: bytes, name: str, pixels: PixelFormat) -> BandImage:
    """Read an image from the bytes of an NPY or NPZ file.

    An NPZ holds one array, or calls one of them ``image``. Raises InputError if the file cannot be read or if the axis of the
    bands is not known.
    """
    try:
        if content.startswith(NPY_START):
            array = _read_array(io.BytesIO(content), name)
        else:
            with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(_find_member(archive, name)) as member:
                array = _read_array(cast(BinaryIO, member), name)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"cannot read the array {name!r}: {error or type(error).__name__}", "save it again") from None
    axes = find_axes(array.shape, pixels, name)
    return BandImage(move_bands_first(array, axes), axes, 8 * array.dtype.itemsize if array.dtype.kind == "u" else None)


def _find_member(archive: zipfile.ZipFile, name: str) -> str:
    """Return the member of an archive that is the image. Raises InputError if several could be."""
    members = [member for member in archive.namelist() if member.endswith(".npy")]
    if f"{IMAGE}.npy" in members:
        return f"{IMAGE}.npy"
    if len(members) > 1:
        listed = ", ".join(repr(member.removesuffix(".npy")) for member in sorted(members)[:5])
        raise InputError(f"{name!r} holds {len(members)} arrays ({listed})", f"call the image {IMAGE!r}")
    return members[0]


def _read_array(stream: BinaryIO, name: str) -> NDArray[Any]:
    """Read one array in NPY format. Raises InputError for pickled objects and for arrays that are too large."""
    from xplain.data.npy_format import read_npy_data, read_npy_header

    header = read_npy_header(stream)
    if header.dtype.hasobject:
        raise InputError(f"{name!r} holds pickled Python objects, which are not loaded", "save an array of numbers")
    if math.prod(header.shape) > MAX_VALUES:
        raise InputError(f"{name!r} is too large: it has the shape {header.shape}", "reduce its size")
    array = read_npy_data(stream, header)
    return array.astype(array.dtype.newbyteorder("="))


def find_axes(shape: tuple[int, ...], pixels: PixelFormat, name: str) -> str:
    """Return the axes of an array: ``hw``, ``hwc`` or ``chw``. Raises InputError if they are not known."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(
            f"{name!r} has the shape {shape}, which is not an image",
            "save one image per file: (H, W), (H, W, C) or (C, H, W)",
        )
    if len(shape) == 2:
        return "hw"
    if pixels.axes != "auto":
        return pixels.axes
    if pixels.input_bands:
        raise InputError(f"the axes of {name!r} are not known", "use --axes hwc or --axes chw with --input-bands")
    for count in (pixels.channels, 1) if pixels.channels == 3 else (pixels.channels,):
        axes = [order for order, side in (("hwc", shape[2]), ("chw", shape[0])) if side == count]
        if len(axes) == 2:
            raise InputError(
                f"the first and the last axis of {name!r} {shape} could both be its bands",
                "use --axes hwc or --axes chw",
            )
        if axes:
            return axes[0]
    raise InputError(
        f"{name!r} has the shape {shape}, but the model takes {pixels.channels} channels",
        f"save (H, W, {pixels.channels}) or ({pixels.channels}, H, W), or choose bands with --input-bands and --axes",
    )


def move_bands_first(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return an array with the axes ``hw``, ``hwc`` or ``chw`` as (bands, H, W)."""
    if axes == "hw":
        return array[None]
    return array.transpose(2, 0, 1) if axes == "hwc" else array
