"""Paired tests: against scipy's exact permutations, by hand, and where nothing is defined."""

from __future__ import annotations

import numpy as np
import pytest

from xplain.reports.statistics import PERMUTATIONS, count_wins, holm, sign_flip_p


def test_few_images_are_tested_exactly():
    stats = pytest.importorskip("scipy.stats")
    d = np.random.default_rng(0).normal(0.4, 1, (9, 3))
    expected = [
        stats.permutation_test((column,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        for column in d.T
    ]
    assert sign_flip_p(d).tolist() == pytest.approx(expected)
    assert sign_flip_p(np.array([[1.0], [2.0], [3.0]])).tolist() == [2 / 8]


def test_many_images_come_close_to_the_t_test():
    stats = pytest.importorskip("scipy.stats")
    d = np.random.default_rng(1).normal(0.1, 1, (300, 4))
    expected = stats.ttest_1samp(d, 0).pvalue
    spread = 3 * np.sqrt(expected * (1 - expected) / PERMUTATIONS)
    assert (np.abs(sign_flip_p(d) - expected) <= spread + 0.003).all()
    assert sign_flip_p(d).tolist() == sign_flip_p(d, seed=0).tolist() != sign_flip_p(d, seed=1).tolist()
    assert sign_flip_p(d + 5).tolist() == [1 / (1 + PERMUTATIONS)] * 4


def test_sums_that_differ_by_rounding_are_equal():
    """Of |±.1 ±.2 ±.3 ±.4| ten in sixteen are at least 0.4, two of them by -.1 -.2 +.3 +.4, a bit less in floats."""
    assert 0.1 + 0.2 - 0.3 + 0.4 > -0.1 - 0.2 + 0.3 + 0.4
    assert sign_flip_p(np.array([[0.1], [0.2], [-0.3], [0.4]])).tolist() == [10 / 16]


def test_more_images_than_13_are_tested_on_draws():
    assert sign_flip_p(np.ones((13, 1))).tolist() == [2 / 2**13]
    drawn = sign_flip_p(np.ones((14, 1)))[0] * (1 + PERMUTATIONS)
    assert drawn == pytest.approx(round(drawn), abs=1e-9)
    assert sign_flip_p(np.zeros((20, 1))).tolist() == [1]


def test_undefined_pairs_stay_out():
    d = np.random.default_rng(2).normal(0.5, 1, 8)
    with_gaps = np.insert(d, [2, 5], np.nan)[:, None]
    assert sign_flip_p(with_gaps)[0] == pytest.approx(sign_flip_p(d[:, None])[0])
    found = sign_flip_p(np.stack([np.full(5, np.nan), np.zeros(5)], axis=1))
    assert np.isnan(found[0])
    assert found[1] == 1


def test_under_the_null_hypothesis_one_in_twenty_is_below_5_percent():
    d = np.random.default_rng(3).normal(size=(40, 2000))
    assert 0.035 < (sign_flip_p(d) <= 0.05).mean() < 0.065


def test_holm_by_hand():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert holm(p)[[0, 1, 3, 4]].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm(p)[2])
    assert holm(np.array([0.6, 0.9])).tolist() == [1, 1]


def test_wins_follow_the_metrics_direction():
    d = np.array([1.0, 0.0, -2.0, np.nan, 3.0])
    assert count_wins(d, "higher") == (2, 1, 1)
    assert count_wins(d, "lower") == (1, 1, 2)
