"""Tests of input x gradient."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients as reference

X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("score", ["logit", "prob"])
def test_input_x_gradient_equals_reference(score):
    classifier, network = toys.with_pixels(toys.small_net(1, scale=15.0))
    values = xplain.attribute(classifier, X, "input-x-gradient", target=TARGETS, score=score).values
    for value, image, target in zip(values, X, TARGETS, strict=True):
        toys.assert_same(value, reference.input_x_gradient(reference.SCORES[score](network, target), image))


def test_input_x_gradient_linear_model_closed_form():
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "gxi", target=1).values
    toys.assert_same(values, weight[1] * X, rtol=1e-12)


def test_input_x_gradient_sums_to_logit_without_biases():
    """T2: a bias-free ReLU and max-pool network is positively homogeneous (Euler)."""
    net = toys.small_net(2, norm=False, bias=False)
    attribution = xplain.attribute(toys.classifier(net), X, "gxi", target=1)
    toys.assert_same(attribution.total, net(X)[:, 1].detach())


def test_input_x_gradient_scales_with_input():
    classifier = toys.classifier(toys.small_net(2, norm=False, bias=False))
    once, half = (xplain.attribute(classifier, c * X, "gxi", target=1).values for c in (1.0, 0.5))
    toys.assert_same(half, once / 2)


def test_input_x_gradient_with_mean_baseline():
    """On normalised inputs u = (x - mean) / std, u ⊙ ∂f/∂u = (x - mean) ⊙ ∂f/∂x."""
    net = toys.small_net(1)
    classifier, _ = toys.with_pixels(net)
    values = xplain.attribute(classifier, X, "gxi", target=TARGETS, baseline="mean").values
    for value, image, target in zip(values, toys.normalise(X), TARGETS, strict=True):
        toys.assert_same(value, reference.input_x_gradient(reference.logit(net, target), image))
