"""Intervals: they cover what they should, they repeat, and they leave out what is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from xplain.statistics import estimate, paired_difference, resampled_means


def test_mean_and_sample_deviation():
    found = estimate(np.array([1.0, 2.0, 3.0, 6.0]))
    assert (found.mean, found.n) == (3.0, 4)
    assert found.std == pytest.approx(np.sqrt(14 / 3))
    assert found.low < 3 < found.high


def test_the_interval_is_scipys_percentile_bootstrap():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).gamma(2, size=200)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    ours = estimate(values)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_nine_in_ten_and_more_intervals_cover_the_truth():
    rng = np.random.default_rng(3)
    hits = sum((e := estimate(rng.normal(size=60))).low <= 0 <= e.high for _ in range(200))
    assert 0.9 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert estimate(values, seed=5) == estimate(values, seed=5)
    assert estimate(values, seed=5) != estimate(values, seed=6)


def test_resamples_are_means_of_n_draws():
    means = resampled_means(np.array([0.0, 1.0]), seed=0)
    assert len(means) == 2000
    assert set(means) == {0.0, 0.5, 1.0}
    assert (means == 0.5).mean() == pytest.approx(0.5, abs=0.04)


def test_undefined_values_stay_out():
    assert estimate(np.array([1.0, np.nan, 3.0])).n == 2
    empty, single = estimate(np.array([np.nan])), estimate(np.array([2.0]))
    assert (empty.n, single.n, single.mean) == (0, 1, 2.0)
    assert np.isnan([empty.mean, single.low, single.std]).all()


def test_pairs_cancel_what_they_share():
    rng = np.random.default_rng(1)
    shared, gain = rng.normal(0, 10, 100), rng.normal(0.5, 0.1, 100)
    found = paired_difference(shared + gain, shared)
    assert 0.45 < found.low < found.mean < found.high < 0.55
    assert paired_difference(np.array([1.0, np.nan]), np.array([0.0, 0.0])).n == 1
