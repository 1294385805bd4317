"""The single deletion score of one image, cell by cell."""

from __future__ import annotations

from collections.abc import Callable

from scipy.stats import spearmanr
from torch import Tensor


def sds(score: Callable[[Tensor], float], image: Tensor, attribution: Tensor, fill: Tensor, grid: int = 4) -> float:
    """Return the score. score: of an image (C, H, W). fill: (C, H, W) what replaces a deleted cell."""
    height, width = image.shape[1:]
    sums, falls = [], []
    for row in range(grid):
        for column in range(grid):
            changed, total = image.clone(), 0.0
            for y in range(round(row * height / grid), round((row + 1) * height / grid)):
                for x in range(round(column * width / grid), round((column + 1) * width / grid)):
                    changed[:, y, x] = fill[:, y, x]
                    total += sum(attribution[:, y, x].tolist())
            sums.append(total)
            falls.append(score(image) - score(changed))
    return float(spearmanr(sums, falls).statistic)
