"""Agreement of the order of methods in a run with the order in a paper's table: Kendall's tau with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.reports.statistics import CONFIDENCE_LEVEL, bootstrap_means

MIN_METHODS = 4  # three methods have only six orders


@dataclass(frozen=True)
class OrderAgreement:
    """Kendall's tau-b between a published and a measured order of methods, with a 95 % bootstrap interval over n samples."""

    tau: float
    low: float
    high: float
    methods: int
    n: int


def kendall_tau_b(values: Floats, reference: Floats) -> Floats:
    """Return Kendall's tau-b (...) between each row of ``values`` (..., M) and ``reference`` (M,); NaN if one of them is constant.

    The number of pairs in the same order minus the number in the opposite order, divided by the geometric mean of the numbers of
    pairs that are not tied in the one and in the other.
    """
    first, second = np.triu_indices(len(reference), 1)
    order = np.sign(values[..., first] - values[..., second])
    reference_order = np.sign(reference[first] - reference[second])
    untied = (order**2).sum(axis=-1) * (reference_order**2).sum()
    with np.errstate(invalid="ignore"):
        tau: Floats = (order * reference_order).sum(axis=-1) / np.sqrt(untied)
    return tau


def estimate_order_agreement(published: Floats, values: Floats, seed: int = 0) -> OrderAgreement | None:
    """Estimate the agreement of the means of M methods on N samples (M, N) with published values (M,).

    Each bootstrap resample draws the same samples, such as images, for all methods. The interval is that of the percentiles.
    Returns None for fewer than MIN_METHODS methods, without samples, and if all published values or all means are equal. The
    interval is NaN with one sample.
    """
    methods, n = values.shape
    if methods < MIN_METHODS or n == 0:
        return None
    tau = float(kendall_tau_b(values.mean(axis=1), published))
    if np.isnan(tau):
        return None
    low = high = np.nan
    if n > 1:
        means = np.stack([bootstrap_means(row, seed) for row in values], axis=1)  # equal seeds draw equal samples
        taus = kendall_tau_b(means, published)
        low, high = np.nanquantile(taus, ((1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2))
    return OrderAgreement(tau, float(low), float(high), methods, n)


def common_values(columns: Sequence[Mapping[str, float]]) -> Floats:
    """Return the values (M, N) of the samples, by name, for which all of M methods have a finite value, in the order of the names."""
    names = sorted(set(columns[0]).intersection(*columns[1:])) if columns else []
    rows = [[column[name] for name in names] for column in columns]
    values = np.array(rows, dtype=np.float64).reshape(len(columns), len(names))
    return values[:, np.isfinite(values).all(axis=0)]


def describe_order_agreement(metric: str, agreement: OrderAgreement) -> dict[str, Any]:
    """Return the entry of a summary, with None for an interval that does not exist."""
    low, high = (None if np.isnan(value) else value for value in (agreement.low, agreement.high))
    return {
        "metric": metric,
        "tau": agreement.tau,
        "low": low,
        "high": high,
        "methods": agreement.methods,
        "n": agreement.n,
    }
