"""Reference images: what an image is compared with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.rng import Streams
from xplain.data.filters import gaussian_blur

Baseline = Literal["black", "white", "mean", "blur", "uniform"]
BLUR_SIGMA = 5.0  # pixels


def make_baseline(kind: Baseline, x: Tensor, mean: Tensor, rng: Streams) -> Tensor:
    """Reference images (B, C, H, W) for images ``x``.

    black 0, white 1, mean = the colour the model's normalisation maps to zero (``mean`` (C, 1, 1)), blur = the image
    under a Gaussian of 5 pixels, uniform = independent random pixels.
    """
    if kind == "blur":
        return gaussian_blur(x, BLUR_SIGMA)
    if kind == "uniform":
        return rng.uniform(torch.zeros(1, device=x.device), tuple(x.shape[1:]), x.dtype)[:, 0]
    if kind == "mean":
        return mean.to(x.dtype).expand_as(x)
    return torch.full_like(x, {"black": 0.0, "white": 1.0}[kind])
