"""Baseline (reference) images."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.parameters import OrFile
from xplain.core.rng import Streams
from xplain.data.filters import gaussian_blur

# The methods that use it receive each image of a file or folder, or the images of a tensor of the library, as a tensor.
OR_IMAGES = OrFile("an image file or a folder of images", folders=True)
Baseline = Annotated[Literal["black", "white", "mean", "blur", "uniform"], OR_IMAGES]
BLUR_SIGMA = 5.0  # pixels


def check_baseline(baseline: Tensor, x: Tensor) -> None:
    """Raise InputError unless ``baseline`` holds one image, or one per image, of the shape of the images x (B, C, H, W)."""
    if baseline.shape[1:] != x.shape[1:] or len(baseline) not in (1, len(x)):
        raise InputError(
            f"a baseline of shape {tuple(baseline.shape)} does not match images of shape {tuple(x.shape)}",
            "pass one baseline image of the size of the images, or one per image",
        )


def make_baseline(kind: Baseline | Tensor, x: Tensor, mean: Tensor, rng: Streams) -> Tensor:
    """Return baseline images (B, C, H, W) for images ``x``.

    kind: the baseline images (B or 1, C, H, W) themselves, or one of
        black: zeros;
        white: ones;
        mean: the color that the model's normalization maps to zero;
        blur: ``x`` convolved with a Gaussian of 5 pixels;
        uniform: independent uniform pixels.
    x: images (B, C, H, W) in [0, 1].
    mean: (C, 1, 1) mean of the model's normalization.
    rng: random streams of the images, for ``uniform``.
    Raises InputError if the shape of the given images differs from that of ``x``.
    """
    if isinstance(kind, Tensor):
        check_baseline(kind, x)
        return kind.to(x).expand_as(x)
    match kind:
        case "black":
            return torch.full_like(x, 0.0)
        case "white":
            return torch.full_like(x, 1.0)
        case "mean":
            return mean.to(x.dtype).expand_as(x)
        case "blur":
            return gaussian_blur(x, BLUR_SIGMA)
        case "uniform":
            return rng.uniform(torch.zeros(1, device=x.device), tuple(x.shape[1:]), x.dtype)[:, 0]
