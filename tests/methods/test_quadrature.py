"""Tests of the quadrature rules."""

from math import factorial

import pytest
import torch

from xplain.core.errors import UsageError
from xplain.methods._quadrature import quadrature

LIKE = torch.zeros((), dtype=torch.float64)
RULES = ["gauss-legendre", "midpoint", "left", "right", "trapezoid"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 7, 50, 200])
def test_quadrature_weights_and_nodes_are_valid(rule, steps):
    nodes, weights = quadrature(rule, steps, LIKE)
    assert len(nodes) == len(weights) == steps
    assert abs(weights.sum() - 1) < 1e-14
    assert weights.min() > 0
    assert 0 <= nodes.min() <= nodes.max() <= 1
    assert (nodes.diff() > 0).all()


def test_quadrature_with_one_node():
    for rule, node in (("left", 0.0), ("right", 1.0), ("midpoint", 0.5), ("gauss-legendre", 0.5)):
        nodes, weights = quadrature(rule, 1, LIKE)
        assert nodes.tolist() == [node]
        assert weights.tolist() == [1.0]


def test_quadrature_with_four_steps():
    expected = {
        "left": ([0, 0.25, 0.5, 0.75], [0.25] * 4),
        "right": ([0.25, 0.5, 0.75, 1], [0.25] * 4),
        "midpoint": ([0.125, 0.375, 0.625, 0.875], [0.25] * 4),
        "trapezoid": ([0, 1 / 3, 2 / 3, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    }
    for rule, (nodes, weights) in expected.items():
        actual_nodes, actual_weights = quadrature(rule, 4, LIKE)
        assert actual_nodes.tolist() == pytest.approx(nodes, abs=1e-15)
        assert actual_weights.tolist() == pytest.approx(weights, abs=1e-15)


def test_gauss_legendre_with_two_nodes():
    nodes, weights = quadrature("gauss-legendre", 2, LIKE)
    assert nodes.tolist() == pytest.approx([(1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2], abs=1e-15)
    assert weights.tolist() == pytest.approx([0.5, 0.5], abs=1e-15)


def integration_error(rule: str, steps: int, degree: int) -> float:
    """Return the error of the integral of t^degree over [0, 1]."""
    nodes, weights = quadrature(rule, steps, LIKE)
    return abs(float((weights * nodes**degree).sum()) - 1 / (degree + 1))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_gauss_legendre_degree_of_exactness(steps):
    for degree in range(2 * steps):
        assert integration_error("gauss-legendre", steps, degree) < 1e-14
    # the error for t^2n is (n!)^4 / ((2n + 1) ((2n)!)^2)
    known = factorial(steps) ** 4 / ((2 * steps + 1) * factorial(2 * steps) ** 2)
    assert integration_error("gauss-legendre", steps, 2 * steps) == pytest.approx(known, rel=1e-3, abs=1e-15)


@pytest.mark.parametrize("steps", [2, 5, 10])
def test_midpoint_and_trapezoid_degree_of_exactness(steps):
    for rule, panels, factor in (("midpoint", steps, 12), ("trapezoid", steps - 1, 6)):
        assert integration_error(rule, steps, 0) < 1e-15
        assert integration_error(rule, steps, 1) < 1e-15
        # the error for t^2 is 1 / (12 n^2) and 1 / (6 n^2) with n panels
        assert integration_error(rule, steps, 2) == pytest.approx(1 / (factor * panels**2), rel=1e-9)


@pytest.mark.parametrize("rule", ["left", "right"])
def test_left_and_right_degree_of_exactness(rule):
    assert integration_error(rule, 10, 0) < 1e-15
    assert integration_error(rule, 10, 1) == pytest.approx(0.05, rel=1e-12)


def test_trapezoid_rejects_one_node():
    with pytest.raises(
        UsageError, match="rule=trapezoid requires at least two steps, but steps=1; use steps=2 or more"
    ):
        quadrature("trapezoid", 1, LIKE)


def test_quadrature_dtype_follows_like():
    for dtype in (torch.float32, torch.float64):
        nodes, weights = quadrature("left", 3, torch.zeros(1, dtype=dtype))
        assert nodes.dtype == weights.dtype == dtype
