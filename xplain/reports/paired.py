"""Paired tests of many comparisons at once: sign flips, Holm's correction, wins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xplain.reports.render import Floats

DRAWS = 10_000
EXACT = 13  # up to so many images, all sign patterns are taken (8192)


def sign_flip_p(differences: Floats, seed: int = 0) -> Floats:
    """(K,) two-sided p values of K columns of paired differences (N, K), NaN where one of a pair is undefined.

    Under the null hypothesis a pair's difference is as likely with the other sign. The statistic is the mean difference;
    p = share of sign patterns whose |mean| is at least the one found: of all 2^N up to N = 13, else of DRAWS seeded ones and
    the one found, (1 + count) / (1 + DRAWS) (Phipson and Smyth 2010). All columns share the patterns. NaN where nothing is defined.
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
        for _ in range(DRAWS // 100):
            patterns = 1.0 - 2 * np.unpackbits(
                np.frombuffer(rng.bytes(100 * -(-n // 8)), np.uint8).reshape(100, -1), axis=1, count=n
            )
            count += (np.abs(patterns @ values) >= found).sum(axis=0)
        p = (1 + count) / (1 + DRAWS)
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
