"""Decode images to upright 8-bit RGB and read them as model input.

Every command decodes alike: EXIF orientation is applied, transparency is blended with white, gray of 12, 16 and 32 bits is scaled
to 8 bits, the first frame of an animation is used, color profiles are ignored, and all modes become RGB. Arrays, and images
with other channels than photographs, are read as bands (see ``xplain.data.bands``).
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

from xplain.core.current_image import processing_image
from xplain.core.errors import InputError, UsageError, XplainError, first_line
from xplain.core.options import Axes
from xplain.data.array_images import is_array, read_array_image
from xplain.data.bands import BandImage, PixelFormat, scale_to_unit_range, select_bands
from xplain.data.formats import is_heif, register_heif, suggest_format
from xplain.data.image_metadata import TIFF_HEADERS, read_orientation, strip_metadata, turn_upright
from xplain.data.photo_bands import split_bands
from xplain.data.pixel_formats import convert_to_rgb, read_planes_in_full
from xplain.data.preprocessing import Preprocessing, preprocess, preprocess_bands
from xplain.data.sources import ImageSource, too_large_error
from xplain.data.tiff_images import count_pages, needs_tifffile, page_error, read_tiff_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

TIFF_HINT = "save it as PNG, or as little-endian TIFF with 1 or 3 channels of 8 or 16 bits"  # Pillow reads few others
# Texts of Pillow's exceptions that report too little memory, or a size that it refuses.
DECODER_MEMORY_TEXTS = ("out of memory error", "decoder error -9")

T = TypeVar("T")
# A function of a loaded Pillow image, its raw mode, the bytes of its file and its name.
Convert = Callable[["Image", str, bytes, str], T]


def decode_image(content: bytes, name: str) -> Image:
    """Decode the bytes of an image file to an upright 8-bit RGB Pillow image. Raises InputError that names ``name``."""
    return _decode_with(content, name, _to_upright_rgb)[0]


def _to_upright_rgb(image: Image, raw_mode: str, content: bytes, name: str) -> tuple[Image, int]:
    """Return the upright image and the EXIF orientation of its file."""
    orientation = read_orientation(image)
    return turn_upright(convert_to_rgb(image, raw_mode, content, name), orientation), orientation


def _decode_with(content: bytes, name: str, convert: Convert[T]) -> T:
    """Decode the bytes of an image file and return the result of ``convert``. Raises InputError that names ``name``."""
    if not content:
        raise InputError(f"{name!r} is empty (0 bytes)", "pass an image file")
    with processing_image(name):
        error: InputError | None = None
        for variant in strip_metadata(content):  # metadata that Pillow cannot parse hides no pixels
            try:
                return _decode(variant, name, convert)
            except _UnreadableError as unreadable:
                error = unreadable
        raise InputError(str(error)) from None


class _UnreadableError(InputError):
    """Pillow cannot read a file, which may be due to its metadata."""


def _decode(content: bytes, name: str, convert: Convert[T]) -> T:
    from PIL import Image, UnidentifiedImageError

    if is_heif(content):
        register_heif()
    try:
        with Image.open(io.BytesIO(content)) as image:
            raw_mode = _raw_mode(image)
            read_planes_in_full(image, name)
            _silence_libtiff()
            if image.format == "TIFF" and (pages := count_pages(image)) > 1:
                raise page_error(name, pages)
            image.load()
            return convert(image, raw_mode, content, name)
    except UnidentifiedImageError:
        hint = TIFF_HINT if content[:4] in TIFF_HEADERS else suggest_format(content)
        raise _UnreadableError(f"{name!r} is not an image that Pillow can read", hint) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name!r} is too large: {error}", "reduce its size") from None
    except XplainError:
        raise
    except Exception as error:  # decoders raise many types
        if isinstance(error, MemoryError) or any(text in str(error) for text in DECODER_MEMORY_TEXTS):
            raise too_large_error(name) from None
        raise _UnreadableError(
            f"{name!r} is damaged: {first_line(error)}", "restore the file or leave it out"
        ) from None


def _raw_mode(image: Image) -> str:
    """Return how the file stores pixels in Pillow's notation, such as ``RGB;16B``; empty if the decoder has another form."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles and isinstance(tiles[0].args, str) else ""


@cache
def _silence_libtiff() -> None:
    """Stop libtiff from writing to standard error. What it reports is part of the exceptions that Pillow raises."""
    from PIL import _imaging

    try:
        handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError, TypeError):  # not a part of this Pillow
        return
    handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    handler(None)


class ModelInput(NamedTuple):
    """An image as a model receives it.

    pixels: float32 (C, H, W) in [0, 1]. size: (height, width) of the upright file. stored: how the file holds its bands, as a record;
    None for a photograph. orientation: of EXIF, 1 to 8.
    """

    pixels: Tensor
    size: tuple[int, int]
    stored: dict[str, Any] | None = None
    orientation: int = 1


def read_model_input(content: bytes, name: str, preprocessing: Preprocessing) -> ModelInput:
    """Read the bytes of an image file as the input of a model with this preprocessing. Raises InputError that names ``name``.

    Photographs are decoded to 8-bit RGB. Arrays, TIFF files with other bands, and all images of a model of other channels or with
    a choice of bands or of a range, are read as bands.
    """
    try:
        bands = _read_bands(content, name, preprocessing.pixels)
        return _read_photograph(content, name, preprocessing) if bands is None else _prepare(bands, name, preprocessing)
    except MemoryError:
        raise too_large_error(name) from None


def _read_photograph(content: bytes, name: str, preprocessing: Preprocessing) -> ModelInput:
    image, orientation = _decode_with(content, name, _to_upright_rgb)
    return ModelInput(preprocess(image, preprocessing), (image.height, image.width), orientation=orientation)


def read_whole_bands(content: bytes, name: str, pixels: PixelFormat) -> NDArray[np.float32] | None:
    """Read the bytes of an image file as bands (C, H, W) in [0, 1] of its own size, upright; None for a photograph.

    Raises InputError that names ``name``.
    """
    try:
        bands = _read_bands(content, name, pixels)
        return None if bands is None else scale_to_unit_range(bands, pixels, name)
    except MemoryError:
        raise too_large_error(name) from None


def _prepare(bands: BandImage, name: str, preprocessing: Preprocessing) -> ModelInput:
    """Scale, resize and crop bands."""
    size, stored = bands.values.shape[1:], bands.describe(preprocessing.pixels)
    if preprocessing.pixels.channels == 3 and preprocessing.pixels.value_range is None and _is_8_bit(bands):
        pixels = preprocess(_to_rgb_image(bands, preprocessing.pixels, name), preprocessing)
        return ModelInput(pixels, size, stored, bands.orientation)
    scaled = scale_to_unit_range(bands, preprocessing.pixels, name)
    return ModelInput(preprocess_bands(scaled, preprocessing), size, stored, bands.orientation)


def _read_bands(content: bytes, name: str, pixels: PixelFormat) -> BandImage | None:
    """Return the bands of an image, or None for a photograph that is read as RGB."""
    if is_array(content):
        return read_array_image(content, name, pixels)
    if content[:4] in TIFF_HEADERS:
        return (
            read_tiff_image(content, name, pixels) if not pixels.reads_photographs or needs_tifffile(content) else None
        )
    return None if pixels.reads_photographs else _decode_with(content, name, split_bands)


def _is_8_bit(bands: BandImage) -> bool:
    return str(bands.values.dtype) == "uint8" and bands.bits in (8, None) and not bands.is_inverted


def _to_rgb_image(bands: BandImage, pixels: PixelFormat, name: str) -> Image:
    """Return 8-bit bands as a Pillow image, so that equal pixels give the same input from an array as from a PNG."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(select_bands(bands, pixels, name).transpose(1, 2, 0)))


def read_image(
    path: str | Path,
    size: int | Sequence[int] = 224,
    *,
    preprocessing: Preprocessing | None = None,
    value_range: tuple[float, float] | None = None,
    axes: Axes = "auto",
) -> Tensor:
    """Read an image file as a model input. The image is not normalized, because classifiers normalize their input.

    With ``preprocessing=classifier.preprocessing``, the result is the input that the commands use.

    Args:
        path: path of the image file. EXIF orientation is applied, transparent pixels are blended with white, and color profiles are
            ignored. Files in ``.npy`` and ``.npz`` format, and TIFF files with other bands, are read as bands; they hold floats in [0, 1]
            or unsigned integers, whose largest possible value becomes 1.
        size: input side in pixels or (height, width). The short side is resized to size / 0.875 (bicubic), then the center is cropped.
        preprocessing: preprocessing to use instead of ``size``, usually ``classifier.preprocessing``, because models resize differently
            and have different numbers of channels.
        value_range: (low, high) pixel values that become 0 and 1, such as (0, 4095) for 12 bits in 16.
        axes: ``hwc`` or ``chw``, the order of the axes of an array; ``auto`` finds the axis of the channels by its length.

    Returns:
        float32 (C, H, W) in [0, 1] on the CPU, with C = 3 unless ``preprocessing`` is that of a model with other channels.

    Raises:
        UsageError: an argument is invalid.
        InputError: the file cannot be used.

    Example:
        >>> x = xplain.read_image("cat.jpg", preprocessing=clf.preprocessing)[None]
    """
    if not isinstance(path, str | PathLike) or not isinstance(fspath(path), str):
        raise UsageError(
            f"the image is of type {type(path).__name__}, not a path",
            "pass the path of a file, or convert pixels: torch.tensor(array / 255).permute(2, 0, 1).float()",
        )
    if preprocessing is None:
        preprocessing = Preprocessing.for_size(size)
    if not isinstance(preprocessing, Preprocessing):
        raise UsageError(f"preprocessing is of type {type(preprocessing).__name__}", "pass classifier.preprocessing")
    pixels = preprocessing.pixels
    if value_range is not None:
        pixels = replace(pixels, value_range=_check_value_range(value_range))
    if axes not in get_args(Axes):
        raise UsageError(f"unknown axes {axes!r}", "use hwc, chw or auto")
    if axes != "auto":
        pixels = replace(pixels, axes=axes)
    source = ImageSource(Path(path), Path(path).stem)
    return read_model_input(source.read(), source.name, replace(preprocessing, pixels=pixels)).pixels


def _check_value_range(value_range: object) -> tuple[float, float]:
    """Return the range as two floats. Raises UsageError unless it is (low, high) with low < high."""
    try:
        low, high = map(float, value_range)  # type: ignore[call-overload]  # checked here
    except (TypeError, ValueError):
        raise UsageError(f"invalid value_range {value_range!r}", "use (low, high), such as (0, 4095)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"invalid value_range {value_range!r}", "use finite values with low < high, such as (0, 4095)")
    return low, high


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256 digest of a file's bytes."""
    return hashlib.sha256(content).hexdigest()
