"""Read TIFF files of any number of bands with tifffile (extra ``tiff``)."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from xplain.core.errors import InputError, UsageError, XplainError, first_line
from xplain.data.array_images import MAX_VALUES, find_axes, move_bands_first
from xplain.data.bands import BandImage, PixelFormat
from xplain.data.image_metadata import ORIENTATION, turn_array_upright
from xplain.data.sources import too_large_error

if TYPE_CHECKING:
    from PIL.Image import Image

SUBFILE_TYPE, OLD_SUBFILE_TYPE = 254, 255
BITS, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT = 258, 262, 277, 284, 338, 339
REDUCED, MASK, OLD_REDUCED = 1, 4, 2  # flags of SUBFILE_TYPE, and a value of OLD_SUBFILE_TYPE
COLORS = {2: 3, 5: 4, 6: 3, 8: 3}  # samples of RGB, CMYK, YCbCr and Lab; others have one
WHITE_IS_ZERO, RGB, FLOAT, SEPARATE = 0, 2, 3, 2
ALPHA = (1, 2)  # values of EXTRA
BAND_AXES = "SCQI"  # samples of a pixel, channels, unnamed, pages


def has_tifffile() -> bool:
    """Return whether tifffile is installed."""
    return find_spec("tifffile") is not None


def needs_tifffile(content: bytes) -> bool:
    """Return whether a TIFF cannot be read as a photograph: it has more bands than colors, floats, or planes of over 8 bits."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]  # of TiffImageFile
            samples, extra = tags.get(SAMPLES, 1), tags.get(EXTRA, ())
            bits, formats = _as_tuple(tags.get(BITS, 1)), _as_tuple(tags.get(FORMAT, 1))
            colors = COLORS.get(tags.get(PHOTOMETRIC, 0), 1)
            is_planar = tags.get(PLANAR, 1) == SEPARATE and samples > 1
    except UnidentifiedImageError:
        return has_tifffile() and _has_bands(content)
    except Exception:  # damaged files raise many types, and are reported when they are decoded
        return False
    extra = _as_tuple(extra)
    has_alpha = len(extra) == 1 and extra[0] in ALPHA
    return samples > colors + has_alpha or FLOAT in formats or (is_planar and max(bits) > 8)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _has_bands(content: bytes) -> bool:
    """Return whether tifffile can read the first page of a file that Pillow cannot."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return file.pages[0].dtype is not None
    except Exception:  # tifffile raises many types
        return False


def count_pages(image: Image) -> int:
    """Return the number of pages of a TIFF that Pillow has opened, without reduced copies and masks of other pages."""
    if not getattr(image, "is_animated", False):
        return 1
    pages = 0
    for frame in range(image.n_frames):  # type: ignore[attr-defined]  # of TiffImageFile
        image.seek(frame)
        tags = image.tag_v2  # type: ignore[attr-defined]  # of TiffImageFile
        is_copy = tags.get(SUBFILE_TYPE, 0) & (REDUCED | MASK) or tags.get(OLD_SUBFILE_TYPE) == OLD_REDUCED
        pages += not is_copy
    image.seek(0)
    return pages


def page_error(name: str, pages: int) -> InputError:
    """Return the InputError for a file of several images."""
    return InputError(
        f"{name!r} has {pages} pages", "save each page as a file of its own, or pages that are bands as one"
    )


def read_tiff_image(content: bytes, name: str, pixels: PixelFormat) -> BandImage:
    """Read all bands of a TIFF: samples of a pixel, planes, channels, or pages if there are as many as the model has channels.

    Raises InputError if the file cannot be read or holds several images, and UsageError if tifffile is not installed.
    """
    if not has_tifffile():
        raise UsageError(f"reading the bands of {name!r} requires tifffile", "pip install 'xplain-vision[tiff]'")
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return _read_series(file, name, pixels)
    except XplainError:
        raise
    except MemoryError:
        raise too_large_error(name) from None
    except Exception as error:  # tifffile raises many types
        hint = "restore the file or leave it out"
        if "imagecodecs" in str(error):
            hint = "pip install imagecodecs, or save it without compression"
        raise InputError(f"cannot read the bands of {name!r}: {first_line(error)}", hint) from None


def _read_series(file: Any, name: str, pixels: PixelFormat) -> BandImage:
    """Read the only image of an open file."""
    series = [entry for entry in file.series if not (entry.keyframe.subfiletype & (REDUCED | MASK))]
    if len(series) != 1:
        raise page_error(name, len(series))
    page = series[0].keyframe
    photometric = int(page.photometric)
    if photometric not in (0, 1, RGB):
        kind = getattr(page.photometric, "name", photometric)
        raise InputError(f"{name!r} stores colors as {kind}, not as bands", "save it as RGB or as bands")
    if series[0].size > MAX_VALUES:
        raise InputError(f"{name!r} is too large: it has the shape {series[0].shape}", "reduce its size")
    sides = [
        (axis, side) for axis, side in zip(series[0].axes, series[0].shape, strict=True) if axis in "YX" or side > 1
    ]
    axes = "".join(axis for axis, _ in sides)
    order = _find_order(axes, tuple(side for _, side in sides), pixels, name)
    array = series[0].asarray().reshape([side for _, side in sides])
    values = move_bands_first(array, order)
    orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    bits = int(page.bitspersample) if values.dtype.kind == "u" else None
    return BandImage(turn_array_upright(values, orientation), axes, bits, photometric == WHITE_IS_ZERO)


def _find_order(axes: str, shape: tuple[int, ...], pixels: PixelFormat, name: str) -> str:
    """Return the order ``hw``, ``hwc`` or ``chw`` of tifffile's axes. Raises InputError for stacks and several pages."""
    bands = axes.replace("Y", "").replace("X", "")
    if not bands:
        return "hw"
    count = shape[axes.index(bands[0])]
    if len(bands) > 1:
        raise page_error(name, count)
    if bands not in BAND_AXES:
        raise InputError(
            f"{name!r} is a stack of {count} images (axes {axes})",
            "save one image per file, with its bands as channels",
        )
    if bands == "Q":  # an array whose axes tifffile did not know
        if pixels.axes == "auto" and not pixels.input_bands and pixels.channels not in (shape[0], shape[-1]):
            raise page_error(name, count)
        return find_axes(shape, pixels, name)
    if bands == "I" and pixels.axes != "chw" and (pixels.channels == 3 or count != pixels.channels):
        raise page_error(name, count)
    return "hwc" if axes.endswith(bands) else "chw"
