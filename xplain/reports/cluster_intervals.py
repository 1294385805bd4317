"""Means over groups of values, such as images of several mechanisms, with intervals of a two-stage bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xplain.core.array_store import Floats
from xplain.reports.statistics import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL, Estimate, estimate_mean


def estimate_group_mean(groups: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Estimate the mean of the means of groups, each of which counts the same, with a 95 % percentile interval.

    Each of BOOTSTRAP_RESAMPLES resamples draws groups and then values within each of them. With one group, only values are drawn.
    NaN is ignored, as are groups without values. ``n`` is the number of groups, or of values with one group.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    arrays = [array[np.isfinite(array)] for array in arrays]
    arrays = [array for array in arrays if len(array)]
    if len(arrays) < 2:
        return estimate_mean(arrays[0] if arrays else np.empty(0), seed=seed)
    means = np.array([array.mean() for array in arrays])
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(arrays), (BOOTSTRAP_RESAMPLES, len(arrays)))
    resampled: Floats = np.empty((BOOTSTRAP_RESAMPLES, len(arrays)))
    for number, array in enumerate(arrays):
        slots = chosen == number
        count = int(slots.sum())
        resampled[slots] = array[rng.integers(0, len(array), (count, len(array)))].mean(axis=1)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(resampled.mean(axis=1), (tail, 1 - tail))
    return Estimate(float(means.mean()), float(means.std(ddof=1)), float(low), float(high), len(arrays))


def describe_estimate(estimate: Estimate) -> dict[str, float | int | None]:
    """Return an estimate for JSON, with None for undefined numbers."""
    entries: Mapping[str, float | int] = vars(estimate)
    return {name: None if value != value else value for name, value in entries.items()}
