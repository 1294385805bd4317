"""Sensitivity-n with loops over subsets and pixels (Ancona et al. 2018; patches of Jeon et al. 2022, equation 13)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def correlation(pairs: Iterable[tuple[float, float]]) -> float:
    """Return Pearson's correlation of pairs. Raises ZeroDivisionError without variance."""
    pairs = list(pairs)
    mean_a, mean_b = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    covariance = sum((a - mean_a) * (b - mean_b) for a, b in pairs)
    spread_a, spread_b = sum((a - mean_a) ** 2 for a, _ in pairs), sum((b - mean_b) ** 2 for _, b in pairs)
    return covariance / (spread_a * spread_b) ** 0.5


def patches(mask: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (g, g) enlarged to (H, W) by the nearest cell."""
    grid = len(mask)
    large = torch.zeros(height, width, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            large[i, j] = mask[int(i * grid / height), int(j * grid / width)]
    return large


def sensitivity(
    score: Callable[[Tensor], float], image: Tensor, attribution: Tensor, removed: Iterable[Tensor], fill: Tensor
) -> float:
    """Return the sensitivity of one map (C, H, W) of an image (C, H, W), for masks (C or 1, H, W) of removed values."""
    pairs = []
    for mask in removed:
        mask = mask.expand_as(image)
        total = 0.0
        for value, is_removed in zip(attribution.flatten().tolist(), mask.flatten().tolist(), strict=True):
            total += value if is_removed else 0.0
        pairs.append((total, score(image) - score(torch.where(mask, fill, image))))
    return correlation(pairs)
