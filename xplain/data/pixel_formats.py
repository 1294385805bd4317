"""Convert the pixels of any Pillow image to 8-bit RGB: integer depths, transparency, palettes and color spaces."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from xplain.core.errors import InputError, emit_note
from xplain.data.bands import RANGE_HINT, note_unused_bits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Formats whose 16-bit gray Pillow delivers from 0 (black) to 65535 (white).
SIXTEEN_BIT_FORMATS = ("PNG", "PPM", "JPEG2000")
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
COLOR_MODES = ("RGB", "RGBA", "LA")
WHITE_IS_ZERO, SIGNED = 0, 2  # values of TIFF_PHOTOMETRIC and TIFF_SAMPLE_FORMAT
# PNG gray of 2 and 4 bits is scaled to 8 bits by Pillow, but its transparent level is not.
PNG_GRAY_SCALES = {"L;2": 85, "L;4": 17}
RGB_CHANNELS, CMYK_CHANNELS = ("R", "G", "B", "A"), ("C", "M", "Y", "K")  # raw modes of one channel
PNG_16_BIT_RGB, PNG_16_BIT_RGB_LOW_BYTES = "RGB;16B", "RGB;16L"


def read_planes_in_full(image: ImageFile, name: str) -> None:
    """Make Pillow read uncompressed 16-bit channels that a TIFF stores one after the other; it takes them for 8-bit channels.

    image: not yet loaded. Raises InputError that names ``name`` if the channels are not those of RGB.
    """
    if image.format != "TIFF" or set(_tiff_values(image, TIFF_BITS)) != {16}:
        return
    order = "L" if image.tag_v2.prefix == b"II" else "B"  # type: ignore[attr-defined]  # of TiffImageFile
    for i, tile in enumerate(image.tile):
        if tile.codec_name != "raw" or not isinstance(tile.args, tuple):
            continue
        channel = tile.args[0]
        if channel in CMYK_CHANNELS:
            raise InputError(f"{name!r} has 16-bit CMYK channels one after the other", "save it as RGB")
        if channel in RGB_CHANNELS:
            image.tile[i] = tile._replace(args=(f"{channel};16{order}", *tile.args[1:]))


def convert_to_rgb(image: Image, raw_mode: str, content: bytes, name: str) -> Image:
    """Return a loaded image as 8-bit RGB; transparency is blended with white.

    raw_mode: how its file stores pixels, in Pillow's notation. content: the file.
    Raises InputError that names ``name`` if the range of the pixel values is not defined.
    """
    check_range_is_defined(image, name)
    if image.mode.startswith("I"):
        return _gray_to_rgb(image, *_integer_range(image, name))
    is_tiff = image.format == "TIFF"
    if ";16" in raw_mode or (is_tiff and image.mode in COLOR_MODES and 16 in _tiff_values(image, TIFF_BITS)):
        _note_unused_high_bytes(image)
    if is_tiff and image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        emit_note(
            "transparent pixels of TIFF images are blended with white; if the fourth band is not transparency, use --input-bands 1,2,3"
        )
    if "transparency" in image.info and raw_mode == PNG_16_BIT_RGB:
        return _clear_transparent_color(image, content)
    if "transparency" in image.info and raw_mode in PNG_GRAY_SCALES:
        image.info["transparency"] *= PNG_GRAY_SCALES[raw_mode]
    return _blend_with_white(image)


def check_range_is_defined(image: Image, name: str) -> None:
    """Raise InputError for floating-point and signed pixels."""
    if image.mode == "F":
        raise InputError(f"{name!r} has floating-point pixels, whose range is not defined", RANGE_HINT)
    if image.format == "TIFF" and SIGNED in _tiff_values(image, TIFF_SAMPLE_FORMAT):
        bits = _tiff_values(image, TIFF_BITS)[0]
        raise InputError(f"{name!r} has signed {bits}-bit pixels, whose range is not defined", RANGE_HINT)


def _tiff_values(image: Image, tag: int) -> tuple[int, ...]:
    """Return the values of a tag of the first directory of a TIFF image; empty if it has none."""
    value = image.tag_v2.get(tag, ())  # type: ignore[attr-defined]  # of TiffImageFile
    return value if isinstance(value, tuple) else (value,)


def _integer_range(image: Image, name: str) -> tuple[int, int]:
    """Return the values of black and white of an image of integers. Raises InputError if the format does not define them."""
    if image.format in SIXTEEN_BIT_FORMATS:
        return 0, 2**16 - 1
    if image.format != "TIFF":
        raise InputError(
            f"{name!r} is {image.format} with integer pixels, whose range is not defined", "save it as PNG or TIFF"
        )
    top = int(2 ** _tiff_values(image, TIFF_BITS)[0] - 1)
    photometric = _tiff_values(image, TIFF_PHOTOMETRIC) or (WHITE_IS_ZERO,)  # Pillow's default at 8 bits
    return (top, 0) if photometric[0] == WHITE_IS_ZERO else (0, top)


def _gray_to_rgb(image: Image, black: int, white: int) -> Image:
    """Return an image of unsigned integers as RGB, scaled from ``black`` .. ``white`` to 0 .. 255, with transparency as white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if values.dtype == np.int32:  # Pillow has no unsigned 32-bit mode
        values = values.view(np.uint32)
    note_unused_bits(int(values.max()), max(black, white).bit_length())
    distances = np.abs(values.astype(np.float64) - black)
    levels = (distances / (abs(white - black) / 255)).round().astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        levels[values == image.info["transparency"]] = 255
    return Image.fromarray(levels).convert("RGB")


def _note_unused_high_bytes(image: Image) -> None:
    """Emit a note if a color image of 16 bits, of which Pillow keeps the high bytes, uses the lowest 13 bits or fewer."""
    import numpy as np

    colors = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]  # without transparency
    note_unused_bits(int(colors.max()) << 8, 16)


def _clear_transparent_color(image: Image, content: bytes) -> Image:
    """Return a 16-bit RGB PNG, which Pillow has reduced to the high bytes, with the pixels of its transparent color in white."""
    import numpy as np
    from PIL import Image

    high = np.array(image)
    color = np.array(image.info["transparency"])
    is_transparent = (high == color >> 8).all(axis=2) & (read_low_bytes(content) == color & 255).all(axis=2)
    high[is_transparent] = 255
    return Image.fromarray(high)


def read_low_bytes(content: bytes) -> NDArray[np.uint8]:
    """Return the low bytes (H, W, 3) of the samples of a 16-bit RGB PNG."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.tile = [tile._replace(args=PNG_16_BIT_RGB_LOW_BYTES) for tile in image.tile]
        return np.asarray(image)


def _blend_with_white(image: Image) -> Image:
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
