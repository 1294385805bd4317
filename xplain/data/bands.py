"""Images of any number of bands: how their files are read, which bands the model receives, and their values in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xplain.core.errors import InputError, emit_note
from xplain.core.options import Axes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RANGE_HINT = "set it with --range LOW,HIGH"
TOLERANCE = 1e-5  # of the range, for rounding noise


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of files become the channels of a model.

    channels: number of channels of the model input; 3 also for models of one channel, which convert RGB themselves.
    input_bands: numbers of the bands that the model receives, starting at 1; empty for all.
    axes: order of the axes of arrays. value_range: stored values that become 0 and 1; None for the default of their type.
    clip_range: clip values outside ``value_range``.
    """

    channels: int = 3
    input_bands: tuple[int, ...] = ()
    axes: Axes = "auto"
    value_range: tuple[float, float] | None = None
    clip_range: bool = False

    @property
    def reads_photographs(self) -> bool:
        """Whether photographs are read as 8-bit RGB, without a choice of bands or of a range."""
        return self.channels == 3 and not self.input_bands and self.value_range is None


@dataclass(frozen=True, eq=False)
class BandImage:
    """The stored pixels of an image.

    values: (bands, H, W) of the type of the file, upright. bits: depth of unsigned integers, as the file states it.
    is_inverted: the smallest value is white. orientation: of EXIF, 1 to 8, before the values were turned.
    """

    values: NDArray[Any]
    axes: str
    bits: int | None = None
    is_inverted: bool = False
    orientation: int = 1

    def describe(self, pixels: PixelFormat) -> dict[str, Any]:
        """Return how the pixels are stored, for records: type, bands, order of the axes, and the values that became 0 and 1."""
        entries: dict[str, Any] = {
            "type": str(self.values.dtype),
            "bands": len(self.values),
            "axes": self.axes,
            "range": list(pixels.value_range or full_range(self)),
        }
        return entries | ({"input_bands": list(pixels.input_bands)} if pixels.input_bands else {})


def full_range(image: BandImage) -> tuple[float, float]:
    """Return the values of 0 and 1: all values of unsigned integers, 0 and 1 of other types."""
    dtype = image.values.dtype
    if dtype.kind != "u":
        return 0.0, 1.0
    return 0.0, float(2 ** (image.bits or 8 * dtype.itemsize) - 1)


def select_bands(image: BandImage, pixels: PixelFormat, name: str) -> NDArray[Any]:
    """Return the bands (channels, H, W) that the model receives; one band becomes three equal ones for RGB.

    Raises InputError unless the image has as many bands as the model has channels, or the bands that were chosen.
    """
    values, count = image.values, len(image.values)
    if pixels.input_bands:
        missing = next((band for band in pixels.input_bands if band > count), None)
        if missing is not None:
            raise InputError(
                f"{name!r} has {count} bands, but --input-bands names band {missing}", "choose other bands"
            )
        values = values[[band - 1 for band in pixels.input_bands]]
    if len(values) == 1 and pixels.channels == 3:
        return values.repeat(3, axis=0)
    if len(values) != pixels.channels:
        hint = f"pass images with {pixels.channels} bands"
        if count > pixels.channels:
            hint = "choose the bands with --input-bands, such as --input-bands " + ",".join(
                str(band + 1) for band in range(pixels.channels)
            )
        raise InputError(
            f"{name!r} has {count} band{'s' if count > 1 else ''}, but the model takes {pixels.channels} channels", hint
        )
    return values


def scale_to_unit_range(image: BandImage, pixels: PixelFormat, name: str) -> NDArray[np.float32]:
    """Return the bands that the model receives as float32 (channels, H, W) in [0, 1].

    Without ``value_range``, unsigned integers are divided by the largest value of their type and floats must lie in [0, 1].
    Raises InputError for values whose range is not defined, or that leave it.
    """
    import numpy as np

    values = select_bands(image, pixels, name)
    smallest, largest = _find_extremes(values, name)
    low, high = pixels.value_range or full_range(image)
    if pixels.value_range is None:
        _check_range_is_defined(image, smallest, largest, name)
        if image.bits and image.bits > 8:
            note_unused_bits(int(largest), image.bits)
            emit_note(
                f"pixels of {image.bits} bits are scaled from 0..{high:.0f} to 0..1; use --range for another range"
            )
    elif image.values.dtype.itemsize == 1 and high > 255:
        raise InputError(f"{name!r} has 8-bit pixels, but --range ends at {high:g}", "set the range of these pixels")
    tolerance = TOLERANCE * (high - low) if values.dtype.kind == "f" else 0
    if (smallest < low - tolerance or largest > high + tolerance) and not pixels.clip_range:
        raise InputError(
            f"{name!r} has pixels from {smallest:g} to {largest:g}, outside the range {low:g} to {high:g}",
            "use a wider --range, or add --clip-range",
        )
    scaled = np.empty(values.shape, np.float32)
    for band, stored in zip(scaled, values, strict=True):
        band[...] = np.clip((stored.astype(np.float64) - low) / (high - low), 0, 1)
    return 1 - scaled if image.is_inverted else scaled


def _find_extremes(values: NDArray[Any], name: str) -> tuple[float, float]:
    """Return the smallest and the largest value. Raises InputError unless all values are finite real numbers."""
    import numpy as np

    if values.dtype.kind not in "buif":
        raise InputError(f"{name!r} has pixels of type {values.dtype}", "save real numbers, such as uint16 or float32")
    smallest, largest = float(values.min()), float(values.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise InputError(f"{name!r} has pixels that are NaN or infinite", "replace them, for example by 0")
    return smallest, largest


def _check_range_is_defined(image: BandImage, smallest: float, largest: float, name: str) -> None:
    """Raise InputError for signed integers, and for floats outside [0, 1]."""
    dtype = image.values.dtype
    if dtype.kind == "i":
        raise InputError(f"{name!r} has signed {8 * dtype.itemsize}-bit pixels, whose range is not defined", RANGE_HINT)
    if dtype.kind == "f" and not (smallest >= -TOLERANCE and largest <= 1 + TOLERANCE):
        raise InputError(
            f"{name!r} has floating-point pixels from {smallest:g} to {largest:g}, whose range is not defined",
            f"{RANGE_HINT}; if they are normalized, save the pixels before the normalization instead"
            if smallest < 0
            else RANGE_HINT,
        )


def note_unused_bits(largest: int, bits: int) -> None:
    """Emit a note if the largest value of an image is less than 1/8 of the full range, as that of 12 bits in 16 is."""
    used = largest.bit_length()
    if 0 < used <= bits - 3:
        emit_note(
            f"an image of {bits} bits per pixel uses the lowest {used} bits only and is dark; if its range is smaller, set it, "
            f"such as --range 0,{2**used - 1}"
        )
