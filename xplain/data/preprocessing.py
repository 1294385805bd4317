"""Resize and crop images to the model's input size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from xplain.core.errors import UsageError
from xplain.data.bands import PixelFormat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image, Resampling
    from torch import Tensor

MAX_ASPECT_RATIO = 50  # of an image that is resized as a whole before the crop

MAX_SIDE = 2**16 - 1  # pixels of model input

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Rounding = Literal["round", "floor"]  # round: to the nearest number, halves to the even one


class CropGeometry(NamedTuple):
    """How an image becomes model input: resized to ``width`` x ``height``, then cropped at (``left``, ``top``).

    ``left`` or ``top`` is negative if the crop is larger than the resized image; the border is black.
    """

    width: int
    height: int
    left: int
    top: int


class CropBox(NamedTuple):
    """The part of an image that becomes model input, in pixels of the image; it can extend beyond the image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Preprocessing:
    """How images are resized and cropped.

    size: (height, width) of the center crop. resize: pixels of the short side after resizing, or the exact (height, width).
    squash: resize to the aspect ratio of ``size`` instead, with ``resize`` pixels on the longer side.
    pixels: how the pixels of files become the channels of the model.
    crop: rounding of the offset of the crop. long_side: rounding of the long side after resizing.
    divisor: the sides after resizing are increased to multiples of it.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    interpolation: Interpolation = "bicubic"
    squash: bool = False
    crop: Rounding = "round"
    long_side: Rounding = "floor"
    divisor: int = 1
    pixels: PixelFormat = field(default_factory=PixelFormat)

    @classmethod
    def for_size(cls, size: int | Sequence[int]) -> Preprocessing:
        """Return the usual preprocessing for an input side or (height, width) in pixels: resize to size / 0.875, crop the center.

        Raises UsageError for any other size.
        """
        sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str | bytes) else [size, size]
        if len(sides) != 2:
            raise UsageError(f"the size {size!r} has {len(sides)} numbers", "use a side in pixels, or (height, width)")
        height, width = check_side(sides[0], "size"), check_side(sides[1], "size")
        return cls((height, width), round(max(height, width) / 0.875))

    def geometry(self, width: int, height: int) -> CropGeometry:
        """Return how an image of ``width`` x ``height`` pixels is resized and cropped."""
        crop_height, crop_width = self.size
        new_width, new_height = self._resized_sides(width, height)
        return CropGeometry(
            new_width,
            new_height,
            _crop_offset(new_width, crop_width, self.crop),
            _crop_offset(new_height, crop_height, self.crop),
        )

    def crop_box(self, width: int, height: int) -> CropBox:
        """Return the part of an image of ``width`` x ``height`` pixels that becomes model input."""
        geometry = self.geometry(width, height)
        across, down = width / geometry.width, height / geometry.height
        return CropBox(geometry.left * across, geometry.top * down, self.size[1] * across, self.size[0] * down)

    def _resized_sides(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after resizing an image of ``width`` x ``height`` pixels."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        if self.squash:
            longer = max(self.size)
            return self.resize * self.size[1] // longer, self.resize * self.size[0] // longer
        if self.long_side == "floor":
            longer = int(self.resize * max(width, height) / min(width, height))
        else:
            longer = round(max(width, height) * (self.resize / min(width, height)))
        short, long = (math.ceil(side / self.divisor) * self.divisor for side in (self.resize, longer))
        return (short, long) if width <= height else (long, short)

    def resized_to(self, side: int) -> Preprocessing:
        """Return the same preprocessing for square inputs of ``side`` pixels, with ``resize`` scaled in proportion."""
        longer = max(self.size)
        if isinstance(self.resize, tuple):
            height, width = (round(pixels * side / longer) for pixels in self.resize)
            return replace(self, size=(side, side), resize=(height, width))
        return replace(self, size=(side, side), resize=round(self.resize * side / longer))

    def describe(self) -> dict[str, Any]:
        """Return the fields for records and fingerprints. Fields that few models need are omitted at their defaults."""
        values = asdict(self)
        for name, default in RARE_FIELDS.items():
            if values[name] == default:
                del values[name]
        if self.pixels == PixelFormat():
            del values["pixels"]
        return values


# Fields that were added after the first release, with their defaults: fingerprints of other models do not contain them.
RARE_FIELDS = {"crop": "round", "long_side": "floor", "divisor": 1}


def check_side(side: object, name: str) -> int:
    """Return the side of a model input in pixels. Raises UsageError unless it is a whole number from 1 to MAX_SIDE."""
    pixels = int(side) if isinstance(side, Integral) and not isinstance(side, bool) else 0
    if not 1 <= pixels <= MAX_SIDE:
        raise UsageError(f"invalid {name} {side!r}", f"use a whole number of pixels from 1 to {MAX_SIDE}")
    return pixels


def preprocess(image: Image, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop an image. Returns float32 (3, H, W) in [0, 1].

    Pillow resizes in 8 bits, so the result equals that of torchvision's transforms on Pillow images.
    """
    import numpy as np
    import torch

    image = _resize_and_crop(image, preprocessing)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def preprocess_bands(bands: NDArray[np.float32], preprocessing: Preprocessing) -> Tensor:
    """Resize and crop bands (C, H, W) in [0, 1] in float32, with the geometry of photographs. Returns float32 (C, H, W).

    Values that the interpolation moves out of [0, 1] are clipped. The border of crops that are larger than the image is 0.
    """
    import numpy as np
    import torch
    from PIL import Image

    cropped = [np.asarray(_resize_and_crop(Image.fromarray(band), preprocessing)) for band in bands]
    return torch.from_numpy(np.stack(cropped)).clamp_(0, 1)


def _resize_and_crop(image: Image, preprocessing: Preprocessing) -> Image:
    """Return an image of any Pillow mode, resized and cropped."""
    from PIL import Image

    geometry = preprocessing.geometry(*image.size)
    crop_height, crop_width = preprocessing.size
    left, top = geometry.left, geometry.top
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    new_size = (geometry.width, geometry.height)
    if max(new_size) > MAX_ASPECT_RATIO * min(new_size):
        # The whole resized image would need much memory, and the crop removes nearly all of it.
        image = _resize_center(image, geometry, (crop_width, crop_height), resample)
        left, top = min(left, 0), min(top, 0)
    elif new_size != image.size:
        image = image.resize(new_size, resample)
    return image.crop((left, top, left + crop_width, top + crop_height))


def _resize_center(image: Image, geometry: CropGeometry, crop: tuple[int, int], resample: Resampling) -> Image:
    """Resize an image and return the part that lies inside a crop of (width, height) pixels."""
    left, top = max(geometry.left, 0), max(geometry.top, 0)
    right = min(geometry.left + crop[0], geometry.width)
    bottom = min(geometry.top + crop[1], geometry.height)
    scale_x, scale_y = image.width / geometry.width, image.height / geometry.height
    box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
    return image.resize((right - left, bottom - top), resample, box=box)


def _crop_offset(side: int, crop: int, rounding: Rounding) -> int:
    """Return where a centered crop begins; negative if the crop is larger than the image."""
    if rounding == "floor":
        return (side - crop) // 2
    return round((side - crop) / 2.0) if side >= crop else -((crop - side) // 2)
