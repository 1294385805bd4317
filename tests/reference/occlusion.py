"""Occlusion, one window at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.gradients import Scalar


def occlusion(f: Scalar, image: Tensor, fill: Tensor, window: int, stride: int, reduce: str = "sum") -> Tensor:
    """Return the drops of f (1, H, W), summed or averaged over the windows that contain a pixel."""
    height, width = image.shape[1:]
    total = torch.zeros(1, height, width, dtype=image.dtype)
    count = torch.zeros_like(total)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            pixels = (slice(None), slice(top, top + window), slice(left, left + window))
            hidden = image.clone()
            hidden[pixels] = fill[pixels]
            total[pixels] += f(image) - f(hidden)
            count[pixels] += 1
    return total / count.clamp(min=1) if reduce == "mean" else total


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Return the first pixels of all windows on a line."""
    starts = [start for start in range(0, side, stride) if start + window <= side] or [0]
    if starts[-1] + window < side:
        starts.append(side - window)
    return starts
