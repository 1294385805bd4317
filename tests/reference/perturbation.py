"""Perturbation curves, pixel by pixel: the RISE program (Petsiuk et al. 2018), and evenly spaced pixel counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor


def rise_kernel() -> list[list[float]]:
    """Return the program's "Gaussian of 5": an 11 x 11 impulse under a Gaussian filter with mirrored borders."""
    impulse = torch.zeros(11, 11, dtype=torch.float64)
    impulse[5, 5] = 1
    return gaussian_filter(impulse.numpy(), 5.0).tolist()


def rise_blur(image: Tensor) -> Tensor:
    """Convolve every channel of an image (C, H, W) with the kernel, with zeros beyond the border."""
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
    """Return the pixel indices of a map (H, W), the highest value first."""
    values = saliency.flatten().tolist()
    return sorted(range(len(values)), key=lambda at: -values[at])


def rise_curve(
    probability: Callable[[Tensor], float], start: Tensor, finish: Tensor, order: list[int], step: int
) -> list[float]:
    """Return the probabilities of ``start`` and after each ``step`` further pixels are copied from ``finish``, both (C, H, W)."""
    image, curve, done = start.clone(), [probability(start)], 0
    while done < len(order):
        for at in order[done : done + step]:
            row, column = divmod(at, image.shape[2])
            image[:, row, column] = finish[:, row, column]
        done += step
        curve.append(probability(image))
    return curve


def area(curve: list[float]) -> float:
    """Return the area under a curve over [0, 1] by the trapezoidal rule."""
    return (sum(curve) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)


def replaced(pixels: int, steps: int) -> list[int]:
    """Return the number of replaced pixels after 0, 1, ..., ``steps`` equal steps."""
    return [round(k * pixels / steps) for k in range(steps + 1)]
