"""Intervals: they cover what they should, they repeat, and they leave out what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xplain.reports.statistics import bca_shares, estimate, paired_difference, resampled_means


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


def test_the_bca_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).gamma(0.5, size=60)  # skewed, so that the correction shows
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40000, method="BCa", rng=1).confidence_interval
    ours = [estimate(values, "bca", seed) for seed in range(25)]
    # from seed to seed an end moves by 1.2 % (low) and 3.7 % (high) of the width, measured over 100 seeds; the mean of 25 and
    # scipy's 40000 draws differ by a third of that: three times a third
    width = theirs.high - theirs.low
    assert np.mean([each.low for each in ours]) == pytest.approx(theirs.low, abs=0.012 * width)
    assert np.mean([each.high for each in ours]) == pytest.approx(theirs.high, abs=0.037 * width)
    plain = estimate(values)
    assert (theirs.low - plain.low) / width > 0.05
    assert (theirs.high - plain.high) / width > 0.1


def test_bca_shares_by_hand():
    values = np.array([0.0, 0.0, 0.0, 4.0])  # mean 1; deviations -1, -1, -1, 3
    means = np.concatenate(
        [np.full(1200, 0.0), np.full(400, 1.0), np.full(400, 2.0)]
    )  # 1400 of 2000 below, ties halved
    acceleration = 24 / (6 * 12**1.5)
    bias, edge = 0.5244005127080407, 1.959963984540054  # the normal quantiles of 0.7 and 0.975
    for found, z in zip(bca_shares(values, means), (bias - edge, bias + edge), strict=True):
        expected = 0.5 * math.erfc(-(bias + z / (1 - acceleration * z)) / math.sqrt(2))
        assert found == pytest.approx(expected, abs=1e-9)


def test_without_bias_and_skew_bca_is_percentile():
    values = np.array([-2.0, -1.0, 1.0, 2.0])
    low, high = bca_shares(values, np.concatenate([-np.ones(1000), np.ones(1000)]))
    assert (low, high) == pytest.approx((0.025, 0.975), abs=1e-12)


def test_equal_values_have_an_interval_of_no_width():
    for interval in ("percentile", "bca"):
        found = estimate(np.full(7, 0.1), interval)
        assert (found.low, found.std) == (found.high, 0.0)
        assert found.low == pytest.approx(0.1)


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


def test_resampled_means_that_lie_on_one_side_give_the_largest_bias_that_so_many_can_show():
    values, means = np.array([-1.0, 1.0]), np.full(10, 3.0)  # no skew; none of ten below
    bias, edge = -1.6448536269514729, 1.959963984540054  # the normal quantiles of 0.05 and 0.975
    for side, sign in ((means, 1), (-means, -1)):
        expected = [0.5 * math.erfc(-(sign * 2 * bias + z) / math.sqrt(2)) for z in (-edge, edge)]
        assert bca_shares(values, side) == pytest.approx(expected, abs=1e-9)


def test_infinite_values_stay_out():
    assert estimate(np.array([1.0, np.inf, 2.0, -np.inf])) == estimate(np.array([1.0, 2.0]))


def test_a_paired_difference_has_the_interval_that_is_asked_for():
    a, b = np.random.default_rng(4).exponential(size=(2, 20))
    for interval in ("percentile", "bca"):
        assert paired_difference(a, b, interval, seed=3) == estimate(a - b, interval, seed=3)
    assert paired_difference(a, b, "bca") != paired_difference(a, b)


def test_a_percentile_interval_leaves_out_as_much_at_either_end():
    """Of the 2000 means in order, numbers 49.975 and 1949.025, counted from 0."""
    values = np.arange(30.0) ** 2
    means = np.sort(resampled_means(values, 7))
    found = estimate(values, seed=7)
    assert found.low == pytest.approx(0.025 * means[49] + 0.975 * means[50], rel=1e-12)
    assert found.high == pytest.approx(0.975 * means[1949] + 0.025 * means[1950], rel=1e-12)
