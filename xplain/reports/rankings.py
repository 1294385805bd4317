"""Orders of methods: rank intervals, agreement between metrics, and how many images an order needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xplain.core.array_store import Floats
from xplain.reports.order_agreement import kendall_tau_b
from xplain.reports.statistics import BOOTSTRAP_RESAMPLES, CONFIDENCE_LEVEL

LEVELS = ((1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of M methods, where 1 is the best: of the means, and their distribution over bootstrap resamples of the images.

    rank, median, low, high: (M,), with the 95 % percentile interval. best, top5: shares (M,) of the resamples in which the method is
    the best, or among the best five.
    """

    rank: Floats
    median: Floats
    low: Floats
    high: Floats
    best: Floats
    top5: Floats


@dataclass(frozen=True, eq=False)
class Agreement:
    """Kendall's tau-b between the orders of K metrics (K, K), with 95 % percentile intervals over bootstrap resamples of the images."""

    tau: Floats
    low: Floats
    high: Floats


def resampled_means(values: Floats, seed: int = 0) -> Floats:
    """Return the means (BOOTSTRAP_RESAMPLES, ...) of values (..., N) over bootstrap resamples of the N images.

    All rows use the same resamples. Undefined values (NaN) are left out; a mean without any defined value is NaN.
    """
    n = values.shape[-1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_RESAMPLES).astype(np.float64)
    defined = np.isfinite(values)
    sums = np.tensordot(counts, np.where(defined, values, 0.0), axes=(1, -1))
    totals = np.tensordot(counts, defined.astype(np.float64), axes=(1, -1))
    with np.errstate(invalid="ignore"):
        means: Floats = sums / totals
    return means


def mean_defined(values: Floats) -> Floats:
    """Return the means (...) of the defined values of each row of values (..., N); NaN for a row without any."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, values, 0.0).sum(axis=-1) / defined.sum(axis=-1)
    return means


def rank_best_first(means: Floats) -> Floats:
    """Return the ranks (..., M) of means (..., M), where 1 is the highest. Equal means share their average rank; NaN has rank NaN."""
    higher = (means[..., None, :] > means[..., :, None]).sum(axis=-1)
    equal = (means[..., None, :] == means[..., :, None]).sum(axis=-1)
    ranks = higher + (equal + 1) / 2
    return np.where(np.isfinite(means), ranks, np.nan)


def estimate_ranks(values: Floats, seed: int = 0) -> Ranks:
    """Estimate the ranks of M methods from values (M, N) on N images, where higher is better.

    Raises ValueError if a method has no defined value.
    """
    if not np.isfinite(values).any(axis=1).all():
        raise ValueError("a method has no defined value")
    ranks = rank_best_first(resampled_means(values, seed))
    low, high = np.nanquantile(ranks, LEVELS, axis=0)
    return Ranks(
        rank=rank_best_first(mean_defined(values)),
        median=np.nanmedian(ranks, axis=0),
        low=low,
        high=high,
        best=(ranks == np.nanmin(ranks, axis=1, keepdims=True)).mean(axis=0),
        top5=(ranks <= 5).mean(axis=0),
    )


def pairwise_tau(means: Floats) -> Floats:
    """Return Kendall's tau-b (K, K) between the orders that K metrics give to M methods: means (K, M), all finite."""
    return np.stack([kendall_tau_b(means, row) for row in means], axis=1)


def estimate_agreement(values: Floats, seed: int = 0) -> Agreement:
    """Estimate the agreement of K metrics from values (K, M, N) of M methods on N images, where higher is better.

    Only the methods that have a mean in every metric take part.
    """
    means = _defined_columns(mean_defined(values))
    resamples = resampled_means(values, seed)
    taus = np.stack([pairwise_tau(_defined_columns(sample)) for sample in resamples])
    is_defined = np.isfinite(taus).any(axis=0)  # tau is undefined for a metric that gives all methods the same mean
    low, high = np.nanquantile(np.where(is_defined, taus, 0.0), LEVELS, axis=0)
    low[~is_defined] = high[~is_defined] = np.nan
    return Agreement(pairwise_tau(means), low, high)


def _defined_columns(means: Floats) -> Floats:
    return means[:, np.isfinite(means).all(axis=0)]


def image_level_agreement(values: Floats) -> Floats:
    """Return Kendall's tau-b (K, K) between the orders of methods on single images, averaged over the images. values: (K, M, N)."""
    taus = [pairwise_tau(_defined_columns(values[:, :, image])) for image in range(values.shape[2])]
    return mean_defined(np.stack(taus, axis=-1))


def order_stability(values: Floats, sizes: Sequence[int], splits: int = 50, seed: int = 0) -> Floats:
    """Return the mean Kendall's tau-b (len(sizes),) between the orders of two disjoint random sets of ``size`` images.

    values: (M, N). NaN where 2 * size exceeds N.
    """
    rng = np.random.default_rng(seed)
    n = values.shape[1]
    result = np.full(len(sizes), np.nan)
    for index, size in enumerate(sizes):
        if 2 * size > n:
            continue
        taus = []
        for _ in range(splits):
            images = rng.permutation(n)[: 2 * size]
            halves = [mean_defined(values[:, part]) for part in (images[:size], images[size:])]
            taus.append(pairwise_tau(_defined_columns(np.stack(halves)))[0, 1])
        result[index] = np.mean(taus)
    return result
