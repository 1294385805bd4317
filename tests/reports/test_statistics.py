"""Bootstrap intervals and paired tests against scipy and by hand, and undefined values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xplain.reports.statistics import (
    MAX_EXACT,
    PERMUTATIONS,
    bca_levels,
    bootstrap_means,
    count_wins,
    estimate_mean,
    holm_correction,
    paired_difference,
    sign_flip_test,
    smallest_p_value,
)


def test_estimate_mean_and_std():
    result = estimate_mean(np.array([1.0, 2.0, 3.0, 6.0]))
    assert (result.mean, result.n) == (3.0, 4)
    assert result.std == pytest.approx(np.sqrt(14 / 3))
    assert result.low < 3 < result.high


def test_percentile_interval_matches_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).gamma(2, size=200)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    ours = estimate_mean(values)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_bca_interval_matches_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).gamma(0.5, size=60)  # skewed, so that the correction shows
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40000, method="BCa", rng=1).confidence_interval
    ours = [estimate_mean(values, "bca", seed) for seed in range(25)]
    # from seed to seed an end moves by 1.2 % (low) and 3.7 % (high) of the width, measured over 100 seeds; the mean of 25 and
    # scipy's 40000 draws differ by a third of that: three times a third
    width = theirs.high - theirs.low
    assert np.mean([estimate.low for estimate in ours]) == pytest.approx(theirs.low, abs=0.012 * width)
    assert np.mean([estimate.high for estimate in ours]) == pytest.approx(theirs.high, abs=0.037 * width)
    plain = estimate_mean(values)
    assert (theirs.low - plain.low) / width > 0.05
    assert (theirs.high - plain.high) / width > 0.1


def test_bca_levels_by_hand():
    values = np.array([0.0, 0.0, 0.0, 4.0])  # mean 1; deviations -1, -1, -1, 3
    means = np.concatenate(
        [np.full(1200, 0.0), np.full(400, 1.0), np.full(400, 2.0)]
    )  # 1400 of 2000 below, ties halved
    acceleration = 24 / (6 * 12**1.5)
    bias, edge = 0.5244005127080407, 1.959963984540054  # the normal quantiles of 0.7 and 0.975
    for level, z in zip(bca_levels(values, means), (bias - edge, bias + edge), strict=True):
        expected = 0.5 * math.erfc(-(bias + z / (1 - acceleration * z)) / math.sqrt(2))
        assert level == pytest.approx(expected, abs=1e-9)


def test_bca_levels_without_bias_and_skew():
    values = np.array([-2.0, -1.0, 1.0, 2.0])
    low, high = bca_levels(values, np.concatenate([-np.ones(1000), np.ones(1000)]))
    assert (low, high) == pytest.approx((0.025, 0.975), abs=1e-12)


def test_equal_values_have_zero_width_interval():
    for interval in ("percentile", "bca"):
        result = estimate_mean(np.full(7, 0.1), interval)
        assert (result.low, result.std) == (result.high, 0.0)
        assert result.low == pytest.approx(0.1)


def test_intervals_cover_the_mean():
    rng = np.random.default_rng(3)
    intervals = [estimate_mean(rng.normal(size=60)) for _ in range(200)]
    hits = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 0.9 <= hits / 200 <= 0.99


def test_estimate_mean_depends_on_seed():
    values = np.random.default_rng(0).normal(size=30)
    assert estimate_mean(values, seed=5) == estimate_mean(values, seed=5)
    assert estimate_mean(values, seed=5) != estimate_mean(values, seed=6)


def test_bootstrap_means_of_two_values():
    means = bootstrap_means(np.array([0.0, 1.0]), seed=0)
    assert len(means) == 2000
    assert set(means) == {0.0, 0.5, 1.0}
    assert (means == 0.5).mean() == pytest.approx(0.5, abs=0.04)


def test_estimate_mean_ignores_nan():
    assert estimate_mean(np.array([1.0, np.nan, 3.0])).n == 2
    empty, single = estimate_mean(np.array([np.nan])), estimate_mean(np.array([2.0]))
    assert (empty.n, single.n, single.mean) == (0, 1, 2.0)
    assert np.isnan([empty.mean, single.low, single.std]).all()


def test_paired_difference_cancels_shared_noise():
    rng = np.random.default_rng(1)
    shared, gain = rng.normal(0, 10, 100), rng.normal(0.5, 0.1, 100)
    result = paired_difference(shared + gain, shared)
    assert 0.45 < result.low < result.mean < result.high < 0.55
    assert paired_difference(np.array([1.0, np.nan]), np.array([0.0, 0.0])).n == 1


def test_bca_levels_with_one_sided_means():
    values, means = np.array([-1.0, 1.0]), np.full(10, 3.0)  # no skew; none of ten below
    bias, edge = -1.6448536269514729, 1.959963984540054  # the normal quantiles of 0.05 and 0.975
    for side, sign in ((means, 1), (-means, -1)):
        expected = [0.5 * math.erfc(-(sign * 2 * bias + z) / math.sqrt(2)) for z in (-edge, edge)]
        assert bca_levels(values, side) == pytest.approx(expected, abs=1e-9)


def test_estimate_mean_ignores_infinity():
    assert estimate_mean(np.array([1.0, np.inf, 2.0, -np.inf])) == estimate_mean(np.array([1.0, 2.0]))


def test_paired_difference_uses_chosen_interval():
    a, b = np.random.default_rng(4).exponential(size=(2, 20))
    for interval in ("percentile", "bca"):
        assert paired_difference(a, b, interval, seed=3) == estimate_mean(a - b, interval, seed=3)
    assert paired_difference(a, b, "bca") != paired_difference(a, b)


def test_percentile_interval_is_symmetric():
    """Of the 2000 means in order, numbers 49.975 and 1949.025, counted from 0."""
    values = np.arange(30.0) ** 2
    means = np.sort(bootstrap_means(values, 7))
    result = estimate_mean(values, seed=7)
    assert result.low == pytest.approx(0.025 * means[49] + 0.975 * means[50], rel=1e-12)
    assert result.high == pytest.approx(0.975 * means[1949] + 0.025 * means[1950], rel=1e-12)


def test_sign_flip_test_matches_scipy():
    stats = pytest.importorskip("scipy.stats")
    d = np.random.default_rng(0).normal(0.4, 1, (9, 3))
    expected = [
        stats.permutation_test((column,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        for column in d.T
    ]
    assert sign_flip_test(d).tolist() == pytest.approx(expected)
    assert sign_flip_test(np.array([[1.0], [2.0], [3.0]])).tolist() == [2 / 8]


def test_sign_flip_test_close_to_t_test():
    stats = pytest.importorskip("scipy.stats")
    d = np.random.default_rng(1).normal(0.1, 1, (300, 4))
    expected = stats.ttest_1samp(d, 0).pvalue
    spread = 3 * np.sqrt(expected * (1 - expected) / PERMUTATIONS)
    assert (np.abs(sign_flip_test(d) - expected) <= spread + 0.003).all()
    assert sign_flip_test(d).tolist() == sign_flip_test(d, seed=0).tolist() != sign_flip_test(d, seed=1).tolist()
    assert sign_flip_test(d + 5).tolist() == [1 / (1 + PERMUTATIONS)] * 4


def test_sign_flip_test_tolerates_rounding():
    """Of |±.1 ±.2 ±.3 ±.4| ten in sixteen are at least 0.4, two of them by -.1 -.2 +.3 +.4, a bit less in floats."""
    assert 0.1 + 0.2 - 0.3 + 0.4 > -0.1 - 0.2 + 0.3 + 0.4
    assert sign_flip_test(np.array([[0.1], [0.2], [-0.3], [0.4]])).tolist() == [10 / 16]


def test_sign_flip_test_samples_above_13():
    assert sign_flip_test(np.ones((13, 1))).tolist() == [2 / 2**13]
    drawn = sign_flip_test(np.ones((14, 1)))[0] * (1 + PERMUTATIONS)
    assert drawn == pytest.approx(round(drawn), abs=1e-9)
    assert sign_flip_test(np.zeros((20, 1))).tolist() == [1]


def test_sign_flip_test_ignores_nan():
    d = np.random.default_rng(2).normal(0.5, 1, 8)
    with_gaps = np.insert(d, [2, 5], np.nan)[:, None]
    assert sign_flip_test(with_gaps)[0] == pytest.approx(sign_flip_test(d[:, None])[0])
    p = sign_flip_test(np.stack([np.full(5, np.nan), np.zeros(5)], axis=1))
    assert np.isnan(p[0])
    assert p[1] == 1


def test_sign_flip_test_under_null_hypothesis():
    d = np.random.default_rng(3).normal(size=(40, 2000))
    assert 0.035 < (sign_flip_test(d) <= 0.05).mean() < 0.065


def test_holm_correction_by_hand():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert holm_correction(p)[[0, 1, 3, 4]].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm_correction(p)[2])
    assert holm_correction(np.array([0.6, 0.9])).tolist() == [1, 1]


def test_count_wins_by_direction():
    d = np.array([1.0, 0.0, -2.0, np.nan, 3.0])
    assert count_wins(d, "higher") == (2, 1, 1)
    assert count_wins(d, "lower") == (1, 1, 2)
    assert count_wins(d, "neither") == (2, 1, 1)


def test_smallest_p_value_is_that_of_equal_differences():
    for pairs in (1, 5, 8, MAX_EXACT):
        assert sign_flip_test(np.ones((pairs, 1)))[0] == pytest.approx(smallest_p_value(pairs))
    assert smallest_p_value(40) < 3e-4
