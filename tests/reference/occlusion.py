"""Occlusion, window by window."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.gradients import Scalar


def occlusion(f: Scalar, image: Tensor, fill: Tensor, window: int, stride: int, reduce: str = "sum") -> Tensor:
    """(1, H, W) the falls of f, added up (or averaged) over the windows that hold a pixel."""
    height, width = image.shape[1:]
    total, held = torch.zeros(1, height, width, dtype=image.dtype), torch.zeros(1, height, width, dtype=image.dtype)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            place = (slice(None), slice(top, top + window), slice(left, left + window))
            hidden = image.clone()
            hidden[place] = fill[place]
            total[place] += f(image) - f(hidden)
            held[place] += 1
    return total / held.clamp(min=1) if reduce == "mean" else total


def _starts(side: int, window: int, stride: int) -> list[int]:
    starts = [start for start in range(0, side, stride) if start + window <= side] or [0]
    if starts[-1] + window < side:
        starts.append(side - window)
    return starts
