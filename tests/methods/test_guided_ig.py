"""Tests of guided IG: against its definition, PAIR's program and closed forms."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers.toys import Function, Linear, classifier, images, small_net
from tests.reference.guided_ig import guided_ig
from xplain.core.rng import Streams
from xplain.data.baselines import make_baseline

X = images(3, 6, 7)


def gradient_of(clf, target):
    def gradient(point):
        x = torch.tensor(point)[None].requires_grad_()
        return torch.autograd.grad(clf(x)[0, target], x)[0][0].numpy()

    return gradient


@pytest.mark.parametrize(("fraction", "distance"), [(0.25, 0.02), (0.25, 0.1), (0.5, 1.0), (0.03, 0.3), (1.0, 0.05)])
@pytest.mark.parametrize("baseline", ["black", "uniform"])
def test_guided_ig_equals_reference(fraction, distance, baseline):
    clf = classifier(small_net())
    attribution = xplain.attribute(
        clf, X, "gig", target=2, steps=8, fraction=fraction, max_distance=distance, baseline=baseline
    )
    start = np.zeros_like(X)
    if baseline == "uniform":
        start = make_baseline("uniform", X, clf.mean, Streams.of(X, 0, "guided-ig")).numpy()
    for k in range(3):
        expected = guided_ig(X[k].numpy(), start[k], gradient_of(clf, 2), 8, fraction, distance)
        np.testing.assert_allclose(attribution.values[k], expected, atol=1e-12)


def test_guided_ig_equals_pair(monkeypatch):
    pair = pytest.importorskip("saliency.core.guided_ig")
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation))
    clf = classifier(small_net(4))
    attribution = xplain.attribute(clf, X, "guided-ig", target=1, steps=25, fraction=0.25, max_distance=0.1)
    for k in range(3):
        with np.errstate(all="ignore"):
            theirs = pair.guided_ig_impl(X[k].numpy(), np.zeros(X[k].shape), gradient_of(clf, 1), 25, 0.25, 0.1)
        np.testing.assert_allclose(attribution.values[k], theirs, atol=1e-12)


def test_guided_ig_linear_model_is_exact():
    weight = torch.randn(4, 3, 6, 7, dtype=torch.float64)
    attribution = xplain.attribute(classifier(Linear(weight)), X, "gig", target=3, steps=7)
    torch.testing.assert_close(attribution.values, weight[3] * X)
    torch.testing.assert_close(attribution.gap, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_guided_ig_zero_distance_is_integrated_gradients():
    clf = classifier(small_net())
    attribution = xplain.attribute(clf, X, "gig", target=0, steps=9, max_distance=0)
    expected = xplain.attribute(clf, X, "ig", target=0, steps=9, rule="left")
    torch.testing.assert_close(attribution.values, expected.values)


def test_guided_ig_gap_vanishes_with_steps():
    model = Function(lambda x: torch.stack([(x**3).sum((1, 2, 3)), (x[:, 0] * x[:, 1]).sum((1, 2))], dim=1))
    gaps = [
        xplain.attribute(classifier(model), X, "gig", target=1, steps=steps, max_distance=0.5).gap.abs().max()
        for steps in (10, 40, 160)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.2


def test_guided_ig_ignores_values_at_baseline():
    x = X.clone()
    x[:, :, :3] = 0
    attribution = xplain.attribute(classifier(small_net()), x, "gig", target=0, steps=5)
    assert not attribution.values[:, :, :3].any()
    assert not xplain.attribute(classifier(small_net()), X * 0, "gig", target=0, steps=5).values.any()


def test_guided_ig_moves_small_gradients_first():
    """f = a (1 + b): at the start only a has a gradient, so b moves first, and a is credited with the whole product."""
    model = Function(lambda x: torch.stack([x[:, 0, 0, 0] * (1 + x[:, 0, 0, 1])] * 2, dim=1))
    x = torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    attribution = xplain.attribute(classifier(model), x, "gig", target=0, steps=60, fraction=0.01, max_distance=1)
    torch.testing.assert_close(attribution.values[0, 0, 0], torch.tensor([0.5 * 1.5, 0.0], dtype=torch.float64))
