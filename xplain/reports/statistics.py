"""Bootstrap intervals of means and of paired differences, and paired permutation tests."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.types import Interval

BOOTSTRAP_RESAMPLES = 2000
PERMUTATIONS = 10_000
MAX_EXACT = 13  # up to this many images, all sign patterns (8192) are enumerated
CONFIDENCE_LEVEL = 0.95
NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A mean of n values with its sample standard deviation and its 95 % bootstrap interval."""

    mean: float
    std: float
    low: float
    high: float
    n: int


def estimate_mean(values: Floats, interval: Interval = "percentile", seed: int = 0) -> Estimate:
    """Estimate the mean of the finite values with an interval from BOOTSTRAP_RESAMPLES seeded resamples.

    values: (n,); NaN and infinite values are ignored.
    interval: ``percentile`` (Efron 1979) reads the resampled means at 2.5 % and 97.5 %; ``bca`` reads them at the
      levels of ``bca_levels``.
    seed: of the resamples.

    ``std`` divides by n - 1. With one value, ``std`` and the interval are NaN; with none, the mean is NaN too.
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
    means = bootstrap_means(values, seed)
    levels = bca_levels(values, means) if interval == "bca" else _percentile_levels()
    low, high = np.quantile(means, levels)
    return Estimate(mean, std, float(low), float(high), n)


def estimate_median(values: Floats, seed: int = 0) -> dict[str, float]:
    """Return the median of the finite values (n,), its 95 % percentile bootstrap interval, the quartiles and n.

    NaN without values; the interval is NaN with one.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return dict.fromkeys(("median", "low", "high", "lower_quartile", "upper_quartile"), np.nan) | {"n": 0}
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    low = high = np.nan
    if n > 1:
        rng = np.random.default_rng(seed)
        medians = [np.median(values[rng.integers(0, n, n, dtype=np.uint32)]) for _ in range(BOOTSTRAP_RESAMPLES)]
        low, high = np.quantile(medians, _percentile_levels())
    numbers = {"median": median, "low": low, "high": high, "lower_quartile": lower, "upper_quartile": upper}
    return {name: float(number) for name, number in numbers.items()} | {"n": n}


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share of ``count`` in n > 0."""
    z = NORMAL.inv_cdf((1 + CONFIDENCE_LEVEL) / 2)
    share, spread = count / n, z**2 / n
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / n + spread / (4 * n)) ** 0.5
    return max(center - half, 0.0), min(center + half, 1.0)


def split_variance(values: Floats) -> tuple[float, float]:
    """Return the variances between and within groups of repeated measurements (n, K), n > 1 and K > 1, by one-way analysis of variance.

    The variance of the mean of the K measurements of a random group is between + within / K. between is at least 0.
    """
    within = float(values.var(axis=1, ddof=1).mean())
    of_means = float(values.mean(axis=1).var(ddof=1))
    return max(of_means - within / values.shape[1], 0.0), within


def _percentile_levels() -> tuple[float, float]:
    return (1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2


def bca_levels(values: Floats, means: Floats) -> tuple[float, float]:
    """Return the two quantile levels of the resampled means that bound the bias-corrected and accelerated interval.

    level(z) = Φ(z0 + (z0 + z) / (1 - a (z0 + z))) at z = Φ⁻¹(2.5 %) and Φ⁻¹(97.5 %), with the bias
    z0 = Φ⁻¹(share of resampled means below the mean, counting half of those equal to it), and the acceleration
    a = Σ d³ / (6 (Σ d²)^1.5) of the jackknife, whose deviations d are (x - mean) / (n - 1) for a mean.
    Efron, Better bootstrap confidence intervals (1987), equations 2.3 and 6.6.
    """
    mean = values.mean()
    below = float(((means < mean).mean() + (means <= mean).mean()) / 2)
    smallest = 0.5 / len(means)  # Φ⁻¹ is infinite at 0 and 1
    bias = NORMAL.inv_cdf(min(max(below, smallest), 1 - smallest))
    deviations = values - mean  # the factor n - 1 cancels
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    lower_level, upper_level = _percentile_levels()
    low = bias + NORMAL.inv_cdf(lower_level)
    high = bias + NORMAL.inv_cdf(upper_level)
    return (
        NORMAL.cdf(bias + low / (1 - acceleration * low)),
        NORMAL.cdf(bias + high / (1 - acceleration * high)),
    )


def bootstrap_means(values: Floats, seed: int, chunk_size: int = 1 << 20) -> Floats:
    """Return the means (BOOTSTRAP_RESAMPLES,) of bootstrap samples of the values.

    values: (n,).
    seed: random seed.
    chunk_size: maximum number of sampled values in memory.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.empty(BOOTSTRAP_RESAMPLES)
    step = max(chunk_size // n, 1)
    for start in range(0, BOOTSTRAP_RESAMPLES, step):
        count = min(step, BOOTSTRAP_RESAMPLES - start)
        means[start : start + count] = values[rng.integers(0, n, (count, n), dtype=np.uint32)].mean(axis=1)
    return means


def paired_difference(values: Floats, reference: Floats, interval: Interval = "percentile", seed: int = 0) -> Estimate:
    """Estimate the mean of ``values - reference`` over the pairs in which both are finite, as ``estimate_mean`` does."""
    differences = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    return estimate_mean(differences, interval, seed)


def sign_flip_test(differences: Floats, seed: int = 0) -> Floats:
    """Return the two-sided p values (K,) of K columns of paired differences (N, K), by random sign flips.

    The null hypothesis is that each pair's difference is as likely with the opposite sign. The statistic is the mean
    difference. p is the share of sign patterns whose |mean| is at least the observed one: of all 2^N patterns up to
    N = MAX_EXACT, else of PERMUTATIONS seeded patterns and the observed one, (1 + count) / (1 + PERMUTATIONS)
    (Phipson and Smyth 2010). All columns share the patterns. Undefined pairs (NaN) are ignored; p is NaN for a column
    without defined pairs.
    """
    values = np.nan_to_num(differences)  # a zero contributes to no pattern
    observed = np.abs(values.sum(axis=0)) - 1e-12 * np.abs(values).sum(axis=0)  # tolerance for rounding
    p = _share_of_patterns(values, observed, seed)
    return np.where(np.isfinite(differences).any(axis=0), p, np.nan)


def smallest_p_value(pairs: int) -> float:
    """Return the smallest p value that ``sign_flip_test`` can give to ``pairs`` differences: that of differences with one sign."""
    return min(2.0 ** (1 - pairs), 1.0) if pairs <= MAX_EXACT else 2.0 / (1 + PERMUTATIONS)


def _share_of_patterns(values: Floats, observed: Floats, seed: int) -> Floats:
    if len(values) <= MAX_EXACT:
        return _exact_share(values, observed)
    return _sampled_share(values, observed, seed)


def _exact_share(values: Floats, observed: Floats) -> Floats:
    """Return the share of all sign patterns whose |sum| is at least the observed one."""
    n = len(values)
    patterns = 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    return (np.abs(patterns @ values) >= observed).mean(axis=0)


def _sampled_share(values: Floats, observed: Floats, seed: int) -> Floats:
    """Return the same share among PERMUTATIONS random patterns and the observed one."""
    rng = np.random.default_rng(seed)
    n = len(values)
    count = np.zeros(values.shape[1])
    for _ in range(PERMUTATIONS // 100):
        random_bytes = np.frombuffer(rng.bytes(100 * -(-n // 8)), np.uint8).reshape(100, -1)
        patterns = 1.0 - 2 * np.unpackbits(random_bytes, axis=1, count=n)
        count += (np.abs(patterns @ values) >= observed).sum(axis=0)
    return (1 + count) / (1 + PERMUTATIONS)


def holm_correction(p: Floats) -> Floats:
    """Return p values (K,) adjusted for K tests by Holm's step-down method (1979). NaN stays NaN and is not counted.

    The i-th smallest of m becomes max over j ≤ i of (m - j + 1)·p_j, at most 1.
    """
    defined = np.flatnonzero(np.isfinite(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return adjusted


def count_wins(differences: Floats, better: str) -> tuple[int, int, int]:
    """Return the numbers of pairs (N,) in which the first is better, equal and worse. NaN counts as none of these.

    better: which values of the metric are better, ``higher`` or ``lower``; ``neither`` counts higher ones as better.
    """
    gains = -differences if better == "lower" else differences
    return int((gains > 0).sum()), int((gains == 0).sum()), int((gains < 0).sum())
