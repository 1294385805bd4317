"""Perturbation curves one pixel at a time: RISE's program (Petsiuk et al. 2018), and pixels counted by shares of the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor


def rise_kernel() -> list[list[float]]:
    """The program's "Gaussian of 5": one pixel of 11 x 11 under a Gaussian filter that mirrors at the borders."""
    impulse = torch.zeros(11, 11, dtype=torch.float64)
    impulse[5, 5] = 1
    return gaussian_filter(impulse.numpy(), 5.0).tolist()


def rise_blur(image: Tensor) -> Tensor:
    """(C, H, W) every channel under the kernel; beyond the border lie zeros."""
    kernel, (channels, height, width) = rise_kernel(), image.shape
    pixels = image.tolist()
    result = torch.zeros_like(image)
    for c in range(channels):
        for r in range(height):
            for s in range(width):
                total = 0.0
                for i in range(11):
                    for j in range(11):
                        down, across = r + i - 5, s + j - 5
                        if 0 <= down < height and 0 <= across < width:
                            total += kernel[i][j] * pixels[c][down][across]
                result[c, r, s] = total
    return result


def ranking(saliency: Tensor) -> list[int]:
    """The pixels of a map (H, W), the highest first."""
    values = saliency.flatten().tolist()
    return sorted(range(len(values)), key=lambda at: -values[at])


def rise_curve(
    probability: Callable[[Tensor], float], start: Tensor, finish: Tensor, order: list[int], step: int
) -> list[float]:
    """The probability of ``start``, and after every ``step`` more pixels in order were taken from ``finish``: (C, H, W) each."""
    image, found, done = start.clone(), [probability(start)], 0
    while done < len(order):
        for at in order[done : done + step]:
            row, column = divmod(at, image.shape[2])
            image[:, row, column] = finish[:, row, column]
        done += step
        found.append(probability(image))
    return found


def area(curve: list[float]) -> float:
    """Under a curve over [0, 1], by trapezoids."""
    return (sum(curve) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)


def replaced(pixels: int, steps: int) -> list[int]:
    """How many pixels have been replaced after 0, 1, ... steps, when step k replaces the k-th share of all."""
    return [round(k * pixels / steps) for k in range(steps + 1)]
