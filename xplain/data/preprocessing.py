"""Resize and crop images to the model's input size."""

from __future__ import annotations

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

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class CropGeometry(NamedTuple):
    """How an image becomes model input: resized to ``width`` x ``height``, then cropped at (``left``, ``top``).

    ``left`` or ``top`` is negative if the crop is larger than the resized image; the border is black.
    """

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True)
class Preprocessing:
    """How images are resized and cropped.

    size: (height, width) of the center crop. resize: pixels of the short side after resizing.
    squash: resize to the aspect ratio of ``size`` instead, with ``resize`` pixels on the longer side.
    pixels: how the pixels of files become the channels of the model.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    interpolation: Interpolation = "bicubic"
    squash: bool = False
    pixels: PixelFormat = field(default_factory=PixelFormat)

    def describe(self) -> dict[str, Any]:
        """Return the record of the preprocessing; the settings of the pixels only if they are not those of photographs."""
        entries = asdict(self)
        if self.pixels == PixelFormat():
            del entries["pixels"]
        return entries

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
        if self.squash:
            longer = max(self.size)
            new_width, new_height = self.resize * crop_width // longer, self.resize * crop_height // longer
        elif width <= height:
            new_width, new_height = self.resize, int(self.resize * height / width)
        else:
            new_width, new_height = int(self.resize * width / height), self.resize
        return CropGeometry(
            new_width, new_height, _crop_offset(new_width, crop_width), _crop_offset(new_height, crop_height)
        )

    def resized_to(self, side: int) -> Preprocessing:
        """Return the same preprocessing for square inputs of ``side`` pixels, with ``resize`` scaled in proportion."""
        return replace(self, size=(side, side), resize=round(self.resize * side / max(self.size)))


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


def _crop_offset(side: int, crop: int) -> int:
    """Return where a centered crop begins; negative if the crop is larger than the image."""
    return round((side - crop) / 2.0) if side >= crop else -((crop - side) // 2)
