"""Orders of methods against direct computations on small tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata

from xplain.reports import rankings

RNG = np.random.default_rng(3)


def test_resampled_means_are_paired_and_ignore_undefined_values():
    values = RNG.normal(size=(2, 3, 20))
    values[1] = values[0] + 1
    values[0, 0, :5] = np.nan
    means = rankings.resampled_means(values)
    assert means.shape == (2000, 2, 3)
    np.testing.assert_allclose(means[:, 1, 1:] - means[:, 0, 1:], 1, rtol=0, atol=1e-12)
    assert means[:, 0, 0].mean() == pytest.approx(np.nanmean(values[0, 0]), abs=0.02)
    assert means[:, 0, 1].std() == pytest.approx(values[0, 1].std() / np.sqrt(20), rel=0.06)


def test_ranks_equal_scipy_with_ties():
    means = np.array([[0.5, 0.9, 0.5, 0.1], [1.0, 2.0, 3.0, 4.0]])
    assert rankings.rank_best_first(means).tolist() == [rankdata(-row).tolist() for row in means]
    assert np.isnan(rankings.rank_best_first(np.array([1.0, np.nan]))[1])


def test_estimated_ranks_of_separated_and_of_equal_methods():
    noise = RNG.normal(size=(4, 50))
    values = noise * [[0.01], [1.0], [1.0], [0.01]] + [[5.0], [0.0], [0.0], [-5.0]]
    values[2] -= values[2].mean() - values[1].mean()  # equal means: the order of 2 and 3 is open
    ranks = rankings.estimate_ranks(values)
    assert ranks.rank[[0, 3]].tolist() == [1, 4]
    assert (ranks.low[0], ranks.high[0], ranks.best[0]) == (1, 1, 1)
    assert (ranks.low[1], ranks.high[1]) == (2, 3)
    assert ranks.best[1:].tolist() == [0, 0, 0]
    assert ranks.top5.tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="no defined value"):
        rankings.estimate_ranks(np.full((2, 3), np.nan))


def test_agreement_equals_scipy_and_leaves_out_undefined_methods():
    values = RNG.normal(size=(3, 6, 30))
    values[1] = values[0]
    values[2] = -values[0]
    values[2, 4] = np.nan
    agreement = rankings.estimate_agreement(values)
    assert agreement.tau[0].tolist() == [1, 1, -1]
    assert agreement.low[0, 1] == agreement.high[0, 1] == 1
    other = RNG.normal(size=(2, 6, 30))
    tau = rankings.estimate_agreement(other)
    means = other.mean(axis=2)
    assert tau.tau[0, 1] == pytest.approx(kendalltau(means[0], means[1]).statistic)
    assert tau.low[0, 1] <= tau.tau[0, 1] <= tau.high[0, 1]
    expected = np.mean([kendalltau(other[0, :, i], other[1, :, i]).statistic for i in range(30)])
    assert rankings.image_level_agreement(other)[0, 1] == pytest.approx(expected)


def test_order_needs_more_images_if_values_are_noisy():
    quality = np.arange(8.0)[:, None]
    clear = quality + 0.01 * RNG.normal(size=(8, 60))
    noisy = quality + 20 * RNG.normal(size=(8, 60))
    assert rankings.order_stability(clear, [5, 30, 31])[:2].tolist() == [1, 1]
    assert np.isnan(rankings.order_stability(clear, [31])[0])
    small, large = rankings.order_stability(noisy, [2, 30], splits=200)
    assert small < 0.35 < large + 0.2
    assert small < large
