"""Return the bands of a photograph as they are stored: gray or color, and transparency as a further band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xplain.core.errors import InputError, emit_note
from xplain.data.bands import BandImage
from xplain.data.image_metadata import read_orientation, turn_array_upright
from xplain.data.pixel_formats import (
    PNG_16_BIT_RGB,
    SIXTEEN_BIT_FORMATS,
    check_range_is_defined,
    read_low_bytes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

BAND_MODES = ("L", "LA", "RGB", "RGBA")  # modes of Pillow whose bands are kept; other 8-bit modes become RGB or RGBA


def split_bands(image: Image, raw_mode: str, content: bytes, name: str) -> BandImage:
    """Return the bands of a loaded image that is not a TIFF.

    raw_mode: how its file stores pixels, in Pillow's notation. content: the file.
    Raises InputError that names ``name`` if the range of the pixel values is not defined.
    """
    import numpy as np

    orientation = read_orientation(image)
    values: NDArray[Any]
    bits = 8
    check_range_is_defined(image, name)
    if image.mode.startswith("I"):
        if image.format not in SIXTEEN_BIT_FORMATS:
            raise InputError(f"{name!r} has integer pixels, whose range is not defined", "save it as PNG or TIFF")
        values, bits = np.asarray(image).astype(np.uint16), 16
    elif raw_mode == PNG_16_BIT_RGB:
        values, bits = np.asarray(image).astype(np.uint16) << 8 | read_low_bytes(content), 16
    elif ";16" in raw_mode:
        raise InputError(f"{name!r} has 16-bit pixels with transparency", "save it as TIFF")
    else:
        if image.mode not in BAND_MODES or "transparency" in image.info:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        values = np.asarray(image)
        if image.mode in ("LA", "RGBA"):
            emit_note(f"the transparency of images is used as band {values.shape[2]}")
    axes = "hw" if values.ndim == 2 else "hwc"
    values = values[None] if axes == "hw" else values.transpose(2, 0, 1)
    return BandImage(turn_array_upright(values, orientation), axes, bits, orientation=orientation)
