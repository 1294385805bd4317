"""XRAI, one region at a time, with all means recomputed in every step."""

from __future__ import annotations

import numpy as np


def xrai(values: np.ndarray, masks: list[np.ndarray], *, fast: bool = False, smallest: int = 50) -> np.ndarray:
    """Return the map (H, W) of values (H, W) and regions ``masks``, each (H, W) bool."""
    covered = np.zeros(values.shape, bool)
    result = np.full(values.shape, np.nan)
    remaining = list(masks)
    if fast:
        remaining.sort(key=lambda mask: -values[mask].mean())
    while True:
        remaining = [mask for mask in remaining if (mask & ~covered).sum() >= smallest]
        if not remaining:
            break
        densities = [values[mask & ~covered].mean() for mask in remaining]
        best = 0 if fast else int(np.argmax(densities))
        new = remaining.pop(best) & ~covered
        result[new] = values[new].mean()
        covered |= new
    if not covered.all():
        result[~covered] = values[~covered].mean()
    return result
