"""Guided IG against its definition, PAIR's program and closed forms."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers.toys import Function, Linear, classifier, images, small_net
from tests.reference.guided_ig import guided_ig

X = images(3, 6, 7)


def gradient_of(clf, target):
    def gradient(point):
        x = torch.tensor(point)[None].requires_grad_()
        return torch.autograd.grad(clf(x)[0, target], x)[0][0].numpy()

    return gradient


@pytest.mark.parametrize(("fraction", "distance"), [(0.25, 0.02), (0.25, 0.1), (0.5, 1.0), (0.03, 0.3), (1.0, 0.05)])
@pytest.mark.parametrize("baseline", ["black", "uniform"])
def test_equals_the_literal_program(fraction, distance, baseline):
    clf = classifier(small_net())
    got = xplain.attribute(
        clf, X, "gig", target=2, steps=8, fraction=fraction, max_distance=distance, baseline=baseline
    )
    start = np.zeros_like(X)
    if baseline == "uniform":
        from xplain.core.rng import Streams
        from xplain.data.baselines import make_baseline

        start = make_baseline("uniform", X, clf.mean, Streams.of(X, 0, "guided-ig")).numpy()
    for k in range(3):
        expected = guided_ig(X[k].numpy(), start[k], gradient_of(clf, 2), 8, fraction, distance)
        np.testing.assert_allclose(got.values[k], expected, atol=1e-12)


def test_equals_pair(monkeypatch):
    pair = pytest.importorskip("saliency.core.guided_ig")
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation))
    clf = classifier(small_net(4))
    got = xplain.attribute(clf, X, "guided-ig", target=1, steps=25, fraction=0.25, max_distance=0.1)
    for k in range(3):
        with np.errstate(all="ignore"):
            theirs = pair.guided_ig_impl(X[k].numpy(), np.zeros(X[k].shape), gradient_of(clf, 1), 25, 0.25, 0.1)
        np.testing.assert_allclose(got.values[k], theirs, atol=1e-12)


def test_linear_models_are_exact():
    weight = torch.randn(4, 3, 6, 7, dtype=torch.float64)
    got = xplain.attribute(classifier(Linear(weight)), X, "gig", target=3, steps=7)
    torch.testing.assert_close(got.values, weight[3] * X)
    torch.testing.assert_close(got.gap, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_no_distance_is_integrated_gradients_by_the_left_rule():
    clf = classifier(small_net())
    got = xplain.attribute(clf, X, "gig", target=0, steps=9, max_distance=0)
    expected = xplain.attribute(clf, X, "ig", target=0, steps=9, rule="left")
    torch.testing.assert_close(got.values, expected.values)


def test_gap_vanishes_with_steps():
    model = Function(lambda x: torch.stack([(x**3).sum((1, 2, 3)), (x[:, 0] * x[:, 1]).sum((1, 2))], dim=1))
    gaps = [
        xplain.attribute(classifier(model), X, "gig", target=1, steps=steps, max_distance=0.5).gap.abs().max()
        for steps in (10, 40, 160)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.2


def test_values_at_their_baseline_get_nothing():
    x = X.clone()
    x[:, :, :3] = 0
    got = xplain.attribute(classifier(small_net()), x, "gig", target=0, steps=5)
    assert not got.values[:, :, :3].any()
    assert not xplain.attribute(classifier(small_net()), X * 0, "gig", target=0, steps=5).values.any()


def test_small_gradients_move_first():
    """f = a (1 + b): at the start only a has a gradient, so b has arrived when a sets out, and a takes all of the product."""
    model = Function(lambda x: torch.stack([x[:, 0, 0, 0] * (1 + x[:, 0, 0, 1])] * 2, dim=1))
    x = torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    seen = xplain.attribute(classifier(model), x, "gig", target=0, steps=60, fraction=0.01, max_distance=1)
    torch.testing.assert_close(seen.values[0, 0, 0], torch.tensor([0.5 * 1.5, 0.0], dtype=torch.float64))
