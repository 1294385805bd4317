"""Uniform FullGrad: completeness, closed forms, and every bias of a piecewise linear network visited by hooks."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import uniform_fullgrad as reference

X = toys.images(3)
TARGETS = [2, 0, 3]
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.LeakyReLU])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_values_equal_sum_over_biases(baseline, norm, activation):
    net = toys.small_net(1, scale=15.0, norm=norm, activation=activation)
    classifier, _ = toys.with_pixels(net)
    values = xplain.attribute(classifier, X, "ufg", target=TARGETS, baseline=baseline).values
    mean = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None]
    std = torch.tensor(toys.STD, dtype=torch.float64)[:, None, None]
    for value, image, target in zip(values, X, TARGETS, strict=True):
        if baseline == "mean":
            expected = reference.uniform_fullgrad(net, toys.normalise(image), target)
        else:
            expected = reference.uniform_fullgrad_of_pixels(net, mean, std, image, target)
        toys.assert_same(value, expected)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Tanh])
@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_values_sum_to_score(baseline, activation):
    classifier, network = toys.with_pixels(toys.small_net(1, scale=15.0, activation=activation))
    result = xplain.attribute(classifier, X, "ufg", target=1, baseline=baseline)
    logits = network(X)[:, 1].detach()
    toys.assert_same(result.total, logits, rtol=1e-12)
    toys.assert_same(result.expected, logits, rtol=1e-12)


def test_linear_model_has_closed_form():
    model = toys.classifier(toys.Linear(WEIGHT, torch.tensor([1.5, -7.0], dtype=torch.float64)))
    values = xplain.attribute(model, X, "ufg", target=1, baseline="black").values
    toys.assert_same(values, WEIGHT[1] * X - 7.0 / 240, rtol=1e-11)


def test_mean_baseline_uses_normalized_units():
    """Logit w·u + b with u = (x - mean) / std: φ = w ⊙ u + b / d, as in the paper."""
    model = toys.classifier(
        toys.Linear(WEIGHT, torch.tensor([1.5, -7.0], dtype=torch.float64)), mean=toys.MEAN, std=toys.STD
    )
    values = xplain.attribute(model, X, "ufg", target=1).values
    toys.assert_same(values, WEIGHT[1] * toys.normalise(X) - 7.0 / 240, rtol=1e-11)


def test_black_image_spreads_score_evenly():
    net = toys.small_net(1)
    values = xplain.attribute(toys.classifier(net), torch.zeros_like(X), "ufg", target=1, baseline="black").values
    share = float(net(torch.zeros_like(X))[0, 1].detach()) / 240
    toys.assert_same(values, torch.full_like(X, share), rtol=1e-11)


def test_no_biases_give_input_times_gradient():
    classifier = toys.classifier(toys.small_net(2, norm=False, bias=False))
    values = xplain.attribute(classifier, X, "ufg", target=1, baseline="black").values
    toys.assert_same(values, xplain.attribute(classifier, X, "gxi", target=1).values)
