"""Tests of the controls: their definitions, and that they do not depend on the model."""

import math

import pytest
import torch

import xplain
from tests.helpers import toys

X = toys.images(3)
CLASSIFIER = toys.classifier(toys.small_net(1))
OTHER = toys.classifier(toys.small_net(2))


@pytest.mark.parametrize("name", ["random", "sobel", "center"])
def test_controls_ignore_model_and_target(name):
    first = xplain.attribute(CLASSIFIER, X, name, target=0)
    second = xplain.attribute(OTHER, X, name, target=3)
    assert torch.equal(first.values, second.values)
    assert (first.cost.forwards, first.cost.backwards, first.cost.checks) == (0, 0, 3)
    assert first.values.shape == (3, 3 if name == "random" else 1, 8, 10)


def test_random_is_uniform_and_seeded():
    """7200 values: mean 1/2 and variance 1/12 within five standard errors."""
    many = toys.images(30)
    values = xplain.attribute(CLASSIFIER, many, "random").values
    assert 0.0 < float(values.min()) < float(values.max()) < 1.0
    assert abs(float(values.mean()) - 0.5) < 5 * (1 / 12 / 7200) ** 0.5
    assert abs(float(values.var()) - 1 / 12) < 5 * (1 / 180 / 7200) ** 0.5
    assert len(values.unique()) == 7200
    assert not torch.equal(values, xplain.attribute(CLASSIFIER, many, "random", seed=1).values)


def test_sobel_of_ramp():
    x = torch.arange(10, dtype=torch.float64).expand(1, 3, 8, 10) * 0.02
    values = xplain.attribute(CLASSIFIER, x, "sobel").values[0, 0]
    toys.assert_same(values[:, 1:-1], torch.full((8, 8), 0.02, dtype=torch.float64), rtol=1e-12)
    toys.assert_same(values[:, [0, -1]], torch.full((8, 2), 0.01, dtype=torch.float64), rtol=1e-12)


def test_sobel_combines_both_slopes():
    """Gray = (3 · 0.01 row + 3 · 0.02 column) / 3, with different slopes per channel."""
    rows, columns = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(10.0, dtype=torch.float64)
    x = torch.stack([0.03 * rows + 0 * columns, 0.06 * columns + 0 * rows, 0 * rows + 0 * columns])[None]
    values = xplain.attribute(CLASSIFIER, x, "sobel").values[0, 0, 1:-1, 1:-1]
    toys.assert_same(values, torch.full((6, 8), math.hypot(0.01, 0.02), dtype=torch.float64), rtol=1e-12)


def test_sobel_of_single_pixel():
    x = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    x[:, :, 4, 5] = 1.0
    values = xplain.attribute(CLASSIFIER, x, "sobel").values[0, 0]
    corner, side = math.hypot(1, 1) / 8, 2 / 8
    expected = torch.tensor([[corner, side, corner], [side, 0, side], [corner, side, corner]], dtype=torch.float64)
    toys.assert_same(values[3:6, 4:7], expected, rtol=1e-12)
    assert float(values.sum()) == pytest.approx(float(expected.sum()), rel=1e-12)


def test_center_is_gaussian():
    x = toys.images(2, height=9, width=13)
    values = xplain.attribute(CLASSIFIER, x, "center", sigma=0.5).values
    assert float(values[0, 0, 4, 6]) == 1.0 == float(values.max())
    assert float(values[1, 0, 4, 9]) == pytest.approx(math.exp(-(3**2) / (2 * 4.5**2)), rel=1e-12)
    assert float(values[1, 0, 0, 0]) == pytest.approx(math.exp(-(4**2 + 6**2) / (2 * 4.5**2)), rel=1e-12)
