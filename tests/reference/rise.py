"""RISE, one mask at a time, for given cells and offsets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.reference.gradients import Scalar


def mask(cells: np.ndarray, down: int, across: int, height: int, width: int) -> Tensor:
    """Return the grid upsampled to (H, W) and cropped at an offset, one pixel at a time by the bilinear formula."""
    grid = len(cells)
    tall, wide = -(-height // grid), -(-width // grid)
    result = torch.zeros(height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            # the pixel's center in cells of the upsampled grid, whose s values cover s + 1 cells
            u = (r + down + 0.5) * grid / ((grid + 1) * tall) - 0.5
            v = (c + across + 0.5) * grid / ((grid + 1) * wide) - 0.5
            u, v = min(max(u, 0), grid - 1), min(max(v, 0), grid - 1)
            i, j = max(min(int(u), grid - 2), 0), max(min(int(v), grid - 2), 0)
            a, b = u - i, v - j
            i2, j2 = min(i + 1, grid - 1), min(j + 1, grid - 1)
            above = (1 - b) * cells[i, j] + b * cells[i, j2]
            below = (1 - b) * cells[i2, j] + b * cells[i2, j2]
            result[r, c] = (1 - a) * above + a * below
    return result


def rise(f: Scalar, image: Tensor, fill: Tensor, masks: list[Tensor], keep: float) -> Tensor:
    """Return 1 / (N p) Σ f(masked image) mask (1, H, W)."""
    total = torch.zeros(1, *image.shape[1:], dtype=image.dtype)
    for image_mask in masks:
        total += f(fill + image_mask * (image - fill)) * image_mask
    return total / (len(masks) * keep)
