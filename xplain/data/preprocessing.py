"""Resize and crop images to the model's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


THIN = 50  # how many times longer than wide an image is resized as a whole


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class CropGeometry(NamedTuple):
    """How an image is brought to the model's input: resized to ``width`` x ``height``, then cropped from ``left`` and ``top`` on.

    Where the crop is larger than the resized image, it begins before it (below zero), and black fills the rest.
    """

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to ``resize`` pixels, then crop the centre ``size`` = (height, width).

    squash: resize to the proportion of ``size`` instead, its longer side to ``resize``, whatever the image's own proportion is.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    interpolation: Interpolation = "bicubic"
    squash: bool = False

    @classmethod
    def for_size(cls, size: int | Sequence[int]) -> Preprocessing:
        """The usual 0.875 centre crop for an input side or (height, width) in pixels."""
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        return cls((height, width), round(max(height, width) / 0.875))

    def geometry(self, width: int, height: int) -> CropGeometry:
        """Where the pixels of an image of ``width`` x ``height`` go."""
        short = self.resize
        new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        if self.squash:
            new = (self.resize * self.size[1] // max(self.size), self.resize * self.size[0] // max(self.size))
        return CropGeometry(*new, _start_of_crop(new[0], self.size[1]), _start_of_crop(new[1], self.size[0]))

    def resized_to(self, side: int) -> Preprocessing:
        """The same for square inputs of ``side`` pixels: ``resize`` in the proportion it had."""
        return replace(self, size=(side, side), resize=round(self.resize * side / max(self.size)))


def preprocess(image: Image, preprocessing: Preprocessing) -> Tensor:
    """(3, H, W) float32 pixels in [0, 1]: short side resized, centre cropped, in 8 bits."""
    import numpy as np
    import torch
    from PIL import Image

    width, height = image.size
    geometry = preprocessing.geometry(width, height)
    new, left, top = (geometry.width, geometry.height), geometry.left, geometry.top
    crop_height, crop_width = preprocessing.size
    filtered = Image.Resampling[preprocessing.interpolation.upper()]
    if max(new) > THIN * min(new):  # nearly all of it would be cropped away: make the centre only
        box = (max(left, 0), max(top, 0), min(left + crop_width, new[0]), min(top + crop_height, new[1]))
        wide, high = width / new[0], height / new[1]
        source = (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
        image = image.resize((box[2] - box[0], box[3] - box[1]), filtered, box=source)
        left, top = min(left, 0), min(top, 0)
    elif new != image.size:
        image = image.resize(new, filtered)
    image = image.crop((left, top, left + crop_width, top + crop_height))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def _start_of_crop(side: int, crop: int) -> int:
    """Where a centred crop begins; before the image, which is padded with black, if the crop is larger."""
    return round((side - crop) / 2.0) if side >= crop else -((crop - side) // 2)
