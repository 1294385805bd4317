"""Tests of saliency: the gradient, for every score kind."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients as reference

MODEL = toys.small_net(1, scale=15.0)
CLASSIFIER, NETWORK = toys.with_pixels(MODEL)
X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("score", ["logit", "prob", "log-prob", "margin"])
@pytest.mark.parametrize("absolute", [False, True])
def test_saliency_equals_reference(score, absolute):
    values = xplain.attribute(CLASSIFIER, X, "saliency", target=TARGETS, score=score, absolute=absolute).values
    for value, image, target in zip(values, X, TARGETS, strict=True):
        f = reference.SCORES[score](NETWORK, target)
        toys.assert_same(value, reference.saliency(f, image, absolute))


@pytest.mark.parametrize("score", ["logit", "prob", "log-prob"])
def test_saliency_against_contrast_classes(score):
    values = xplain.attribute(CLASSIFIER, X, "saliency", target=2, against=[0, 4], score=score).values
    for value, image in zip(values, X, strict=True):
        f = reference.contrast(reference.SCORES[score], NETWORK, 2, [0, 4])
        toys.assert_same(value, reference.saliency(f, image))


def test_saliency_margin_against_contrast_classes():
    values = xplain.attribute(CLASSIFIER, X, "saliency", target=2, against=[1, 4], score="margin").values
    for value, image in zip(values, X, strict=True):
        z = NETWORK(image[None])[0]
        best = 1 if z[1] > z[4] else 4
        f = reference.contrast(reference.logit, NETWORK, 2, [best])
        toys.assert_same(value, reference.saliency(f, image))


def test_saliency_default_target_is_top_class():
    tops = NETWORK(X).argmax(dim=1)
    attribution = xplain.attribute(CLASSIFIER, X, "saliency")
    assert attribution.target.tolist() == tops.tolist()
    f = reference.logit(NETWORK, int(tops[1]))
    toys.assert_same(attribution.values[1], reference.saliency(f, X[1]))


def test_saliency_linear_model_closed_form():
    weight = torch.randn(4, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "saliency", target=[1, 3, 0]).values
    toys.assert_same(values, weight[[1, 3, 0]], rtol=1e-12)


def test_saliency_divides_by_std():
    weight = torch.ones(2, 3, 8, 10, dtype=torch.float64)
    model = toys.classifier(toys.Linear(weight), mean=toys.MEAN, std=toys.STD)
    values = xplain.attribute(model, X, "saliency", target=0).values
    expected = (1 / torch.tensor(toys.STD, dtype=torch.float64))[:, None, None].expand(3, 8, 10)
    toys.assert_same(values[0], expected, rtol=1e-12)


def test_saliency_of_probabilities_sums_to_zero():
    maps = [xplain.attribute(CLASSIFIER, X, "saliency", target=c, score="prob").values for c in range(5)]
    assert float(sum(maps).abs().max()) < 1e-14 < 1e-4 < float(maps[0].abs().max())


def test_saliency_of_saturated_function_is_zero():
    """T6: 1 - ReLU(1 - 2x) at x = 1 differs from its value at 0, and its gradient is zero: Sensitivity (a) fails."""
    model = toys.Function(lambda x: torch.stack([1 - (1 - 2 * x.sum(dim=(1, 2, 3))).relu()] * 2, dim=1))
    x = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    x[0, 0] = 1.0
    assert (
        xplain.attribute(toys.classifier(model), x, "saliency", target=0).values.tolist()
        == torch.zeros(1, 3, 1, 1).tolist()
    )
