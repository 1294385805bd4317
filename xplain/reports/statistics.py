"""How sure a mean is: bootstrap intervals, of one sample and of paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplain.core.types import Interval

Floats = NDArray[np.floating[Any]]
DRAWS = 2000
LEVEL = 0.95
NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard deviation and 95 % bootstrap interval; n values went into it."""

    mean: float
    std: float
    low: float
    high: float
    n: int


def estimate(values: Floats, interval: Interval = "percentile", seed: int = 0) -> Estimate:
    """The mean of finite values (n,) with an interval from DRAWS seeded resamples.

    interval: ``percentile`` (Efron 1979) reads the resampled means at 2.5 and 97.5 %; ``bca`` at the shares of
    ``bca_shares``. std is the sample standard deviation (n - 1). One value has no interval, and none has no mean: those are NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0)
    if n == 1:
        return Estimate(float(values[0]), np.nan, np.nan, np.nan, 1)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    if np.ptp(values) == 0:  # every resample has this mean
        return Estimate(mean, 0.0, mean, mean, n)
    means = resampled_means(values, seed)
    shares = bca_shares(values, means) if interval == "bca" else ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.quantile(means, shares)
    return Estimate(mean, std, float(low), float(high), n)


def bca_shares(values: Floats, means: Floats) -> tuple[float, float]:
    """The two shares of the resampled means that bound the bias-corrected and accelerated interval.

    share(z) = Φ(z0 + (z0 + z) / (1 - a (z0 + z))) at z = Φ⁻¹(2.5 %) and Φ⁻¹(97.5 %), with the bias
    z0 = Φ⁻¹(the share of resampled means below the mean, half of those equal to it), and the acceleration
    a = Σ d³ / (6 (Σ d²)^1.5) of the jackknife, whose deviations d from their mean are (x - mean) / (n - 1) for a mean.
    Efron, Better bootstrap confidence intervals (1987), equations 2.3 and 6.6.
    """
    mean = values.mean()
    below = float(((means < mean).mean() + (means <= mean).mean()) / 2)
    edge = 0.5 / len(means)  # all on one side: the most that this many draws can say
    bias = NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    deviations = values - mean  # the factor n - 1 falls out
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    low, high = (bias + NORMAL.inv_cdf(share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return (
        NORMAL.cdf(bias + low / (1 - acceleration * low)),
        NORMAL.cdf(bias + high / (1 - acceleration * high)),
    )


def resampled_means(values: Floats, seed: int, at_once: int = 1 << 20) -> Floats:
    """(DRAWS,) means of samples of n values with replacement, ``at_once`` numbers at a time."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.empty(DRAWS)
    step = max(at_once // n, 1)
    for start in range(0, DRAWS, step):
        count = min(step, DRAWS - start)
        means[start : start + count] = values[rng.integers(0, n, (count, n), dtype=np.uint32)].mean(axis=1)
    return means


def paired_difference(values: Floats, reference: Floats, interval: Interval = "percentile", seed: int = 0) -> Estimate:
    """The mean of ``values - reference`` over the pairs in which both are finite, with its interval."""
    return estimate(np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64), interval, seed)
