"""How sure a mean is: bootstrap intervals, of one sample and of paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard deviation and 95 % bootstrap interval; n values went into it."""

    mean: float
    std: float
    low: float
    high: float
    n: int


def estimate(values: Floats, seed: int = 0) -> Estimate:
    """The mean of finite values (n,) with a percentile interval of DRAWS seeded resamples (Efron 1979).

    std is the sample standard deviation (n - 1). One value has no interval, and none has no mean: those are NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0)
    if n == 1:
        return Estimate(float(values[0]), np.nan, np.nan, np.nan, 1)
    edges = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    low, high = np.percentile(resampled_means(values, seed), edges)
    return Estimate(float(values.mean()), float(values.std(ddof=1)), float(low), float(high), n)


def resampled_means(values: Floats, seed: int) -> Floats:
    """(DRAWS,) means of samples of n values with replacement; a sample's counts are multinomial."""
    rng = np.random.default_rng(seed)
    n = len(values)
    chances = np.full(n, 1 / n)
    return np.concatenate([rng.multinomial(n, chances, size=100) @ values / n for _ in range(DRAWS // 100)])


def paired_difference(values: Floats, reference: Floats, seed: int = 0) -> Estimate:
    """The mean of ``values - reference`` over the pairs in which both are finite, with its interval."""
    return estimate(np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64), seed)
