"""Sensitivity-n subset by subset, pixel by pixel (Ancona et al. 2018; the patches of Jeon et al. 2022, equation 13)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def correlation(pairs: Iterable[tuple[float, float]]) -> float:
    """Pearson's, by its definition; raises ZeroDivisionError without variance."""
    pairs = list(pairs)
    mean_a, mean_b = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    both = sum((a - mean_a) * (b - mean_b) for a, b in pairs)
    spread_a, spread_b = sum((a - mean_a) ** 2 for a, _ in pairs), sum((b - mean_b) ** 2 for _, b in pairs)
    return both / (spread_a * spread_b) ** 0.5


def patches(mask: Tensor, height: int, width: int) -> Tensor:
    """(H, W) a mask (g, g) enlarged to the nearest cell."""
    grid = len(mask)
    large = torch.zeros(height, width, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            large[i, j] = mask[int(i * grid / height), int(j * grid / width)]
    return large


def sensitivity(
    score: Callable[[Tensor], float], image: Tensor, attribution: Tensor, removed: Iterable[Tensor], fill: Tensor
) -> float:
    """Of one image (C, H, W) with one map (C, H, W), for masks (C or 1, H, W) of what is removed."""
    pairs = []
    for mask in removed:
        mask = mask.expand_as(image)
        total = 0.0
        for value, gone in zip(attribution.flatten().tolist(), mask.flatten().tolist(), strict=True):
            total += value if gone else 0.0
        pairs.append((total, score(image) - score(torch.where(mask, fill, image))))
    return correlation(pairs)
