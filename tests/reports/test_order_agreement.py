"""Kendall's tau-b of published and measured orders, against scipy, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from xplain.reports.order_agreement import (
    OrderAgreement,
    common_values,
    describe_order_agreement,
    estimate_order_agreement,
    kendall_tau_b,
)
from xplain.reports.published import order_notes

PUBLISHED = np.array([0.1, 0.2, 0.3, 0.4, 0.5])


def test_tau_matches_scipy():
    """Also with ties in either order."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (200, 6)).astype(float)
    reference = np.array([1.0, 2.0, 2.0, 3.0, 5.0, 5.0])
    expected = [kendalltau(row, reference).statistic for row in values]
    np.testing.assert_allclose(kendall_tau_b(values, reference), expected, atol=1e-12)
    assert np.isnan(kendall_tau_b(np.ones(6), reference))
    assert np.isnan(kendall_tau_b(values[0], np.ones(6)))


def test_tau_counts_pairs():
    """One of ten pairs is exchanged: (9 - 1) / 10."""
    assert float(kendall_tau_b(np.array([1.0, 2, 3, 5, 4]), PUBLISHED)) == pytest.approx(0.8)
    assert float(kendall_tau_b(-PUBLISHED, PUBLISHED)) == -1.0


def test_equal_orders_of_every_image_have_no_spread():
    values = PUBLISHED[:, None] * np.array([1.0, 7.0, 2.0])
    assert estimate_order_agreement(PUBLISHED, values) == OrderAgreement(1.0, 1.0, 1.0, 5, 3)


def test_interval_resamples_the_same_images_for_all_methods():
    """Images shift all methods together, which changes no order. Only the fourth method depends on which images are drawn.

    Its mean is 0.45 with a standard error of 0.15: at the lower end it is below the second and third, which exchanges two of ten pairs.
    """
    rng = np.random.default_rng(1)
    values = PUBLISHED[:, None] + 100 * rng.normal(size=40)
    values[3] += np.where(np.arange(40) < 20, 1.0, -0.9)
    agreement = estimate_order_agreement(PUBLISHED, values)
    assert (agreement.tau, agreement.low, agreement.high) == (1.0, pytest.approx(0.6), 1.0)
    draws = np.random.default_rng(0).integers(0, 40, (2000, 40), dtype=np.uint32)
    taus = kendall_tau_b(values[:, draws].mean(axis=2).T, PUBLISHED)
    assert [agreement.low, agreement.high] == pytest.approx(np.quantile(taus, [0.025, 0.975]).tolist())


def test_too_little_to_compare():
    assert estimate_order_agreement(PUBLISHED[:3], np.ones((3, 5))) is None
    assert estimate_order_agreement(PUBLISHED, np.ones((5, 0))) is None
    assert estimate_order_agreement(PUBLISHED, np.ones((5, 4))) is None  # all means are equal
    assert estimate_order_agreement(np.ones(5), np.random.default_rng(0).random((5, 4))) is None
    one = estimate_order_agreement(PUBLISHED, -PUBLISHED[:, None])
    assert (one.tau, one.n, np.isnan(one.low), np.isnan(one.high)) == (-1.0, 1, True, True)


def test_common_values_are_those_that_all_methods_have():
    columns = [{"b": 1.0, "a": 2.0, "c": np.nan}, {"a": 3.0, "c": 4.0, "b": 5.0, "d": 6.0}]
    assert common_values(columns).tolist() == [[2.0, 1.0], [3.0, 5.0]]
    assert common_values([]).shape == (0, 0)
    assert common_values([{"a": 1.0}, {"b": 1.0}]).shape == (2, 0)


def test_notes_state_tau_interval_methods_and_n():
    entries = [
        describe_order_agreement("deletion", OrderAgreement(0.6, 0.2, 1.0, 5, 40)),
        describe_order_agreement("insertion", OrderAgreement(-1.0, np.nan, np.nan, 4, 1)),
    ]
    assert order_notes(entries, "images") == [
        "deletion: τ = 0.60 (0.20 to 1.00), methods: 5, images: 40",
        "insertion: τ = -1.00 (no interval), methods: 4, images: 1",
    ]
    assert entries[1]["low"] is None
