"""Baseline (reference) images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.rng import Streams
from xplain.data.filters import gaussian_blur

Baseline = Literal["black", "white", "mean", "blur", "uniform"]
BLUR_SIGMA = 5.0  # pixels


def make_baseline(kind: Baseline, x: Tensor, mean: Tensor, rng: Streams) -> Tensor:
    """Return baseline images (B, C, H, W) for images ``x``.

    kind: one of
        black: zeros;
        white: ones;
        mean: the color that the model's normalization maps to zero;
        blur: ``x`` convolved with a Gaussian of 5 pixels;
        uniform: independent uniform pixels.
    x: images (B, C, H, W) in [0, 1].
    mean: (C, 1, 1) mean of the model's normalization.
    rng: random streams of the images, for ``uniform``.
    """
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
