"""How sure a mean is: bootstrap intervals, of one sample and of paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from xplain.core.array_store import Floats
from xplain.core.types import Interval

BOOTSTRAP_RESAMPLES = 2000
PERMUTATIONS = 10_000
EXACT = 13  # up to so many images, all sign patterns are taken (8192)
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
    """The mean of finite values (n,) with an interval from BOOTSTRAP_RESAMPLES seeded resamples.

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
    """(BOOTSTRAP_RESAMPLES,) means of samples of n values with replacement, ``at_once`` numbers at a time."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.empty(BOOTSTRAP_RESAMPLES)
    step = max(at_once // n, 1)
    for start in range(0, BOOTSTRAP_RESAMPLES, step):
        count = min(step, BOOTSTRAP_RESAMPLES - start)
        means[start : start + count] = values[rng.integers(0, n, (count, n), dtype=np.uint32)].mean(axis=1)
    return means


def paired_difference(values: Floats, reference: Floats, interval: Interval = "percentile", seed: int = 0) -> Estimate:
    """The mean of ``values - reference`` over the pairs in which both are finite, with its interval."""
    return estimate(np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64), interval, seed)


def sign_flip_p(differences: Floats, seed: int = 0) -> Floats:
    """(K,) two-sided p values of K columns of paired differences (N, K), NaN where one of a pair is undefined.

    Under the null hypothesis a pair's difference is as likely with the other sign. The statistic is the mean difference;
    p = share of sign patterns whose |mean| is at least the one found: of all 2^N up to N = 13, else of PERMUTATIONS seeded ones and
    the one found, (1 + count) / (1 + PERMUTATIONS) (Phipson and Smyth 2010). All columns share the patterns. NaN where nothing is defined.
    """
    values = np.nan_to_num(differences)  # a zero adds to no pattern
    found = np.abs(values.sum(axis=0)) - 1e-12 * np.abs(values).sum(axis=0)  # rounding is no difference
    n = len(values)
    if n <= EXACT:
        patterns = 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        p = (np.abs(patterns @ values) >= found).mean(axis=0)
    else:
        rng = np.random.default_rng(seed)
        count = np.zeros(values.shape[1])
        for _ in range(PERMUTATIONS // 100):
            patterns = 1.0 - 2 * np.unpackbits(
                np.frombuffer(rng.bytes(100 * -(-n // 8)), np.uint8).reshape(100, -1), axis=1, count=n
            )
            count += (np.abs(patterns @ values) >= found).sum(axis=0)
        p = (1 + count) / (1 + PERMUTATIONS)
    return np.where(np.isfinite(differences).any(axis=0), p, np.nan)


def holm(p: Floats) -> Floats:
    """(K,) p values adjusted for a family of K by Holm's step-down method (1979); NaN stays and is not counted.

    The i-th smallest of m becomes max over j ≤ i of (m - j + 1)·p_j, at most 1.
    """
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    found = np.full(len(p), np.nan)
    found[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return found


def count_wins(differences: Floats, better: str) -> tuple[int, int, int]:
    """Pairs (N,) in which the first is better, equal, and worse; undefined ones are none of these."""
    signed: NDArray[np.floating] = differences if better == "higher" else -differences
    return int((signed > 0).sum()), int((signed == 0).sum()), int((signed < 0).sum())
