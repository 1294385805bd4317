"""Tests of Spectral IG: against its definition, closed forms and the straight line."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import spectral_ig as reference
from xplain.core.errors import UsageError
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("batch_size", ["auto", 4])
@pytest.mark.parametrize("rule", ["midpoint", "left"])
@pytest.mark.parametrize(("score", "overlap"), [("prob", 0.4), ("logit", 0.1)])
def test_spectral_ig_equals_reference(score, overlap, rule, batch_size):
    settings = {"steps": 6, "overlap": overlap, "rule": rule, "baseline": "uniform", "batch_size": batch_size}
    attribution = xplain.attribute(CLASSIFIER, X, "spectral-ig", target=TARGETS, score=score, **settings)
    starts = Streams.of(X, 0, "spectral-ig").uniform(torch.zeros(1), (3, 8, 10), torch.float64)[:, 0]
    for i, target in enumerate(TARGETS):
        f = gradients.SCORES[score](NETWORK, target)
        toys.assert_same(attribution.values[i], reference.spectral_ig(f, X[i], starts[i], 6, overlap, rule), rtol=1e-8)
        toys.assert_same(attribution.expected[i], (f(X[i]) - f(starts[i])).detach())


def test_spectral_ig_linear_model_is_exact():
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    attribution = xplain.attribute(
        toys.classifier(toys.Linear(weight)), X, "spectral-ig", target=1, score="logit", steps=5
    )
    toys.assert_same(attribution.values, weight[1] * X, rtol=1e-10)
    assert float(attribution.gap.abs().max()) < 1e-12


def test_spectral_ig_is_complete_on_quadratic():
    """The gradient of a quadratic at the midpoint is its mean over the interval."""
    a = torch.randn(240, 240, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) / 8
    model = toys.Function(lambda x: torch.stack([((x.flatten(1) @ a) * x.flatten(1)).sum(dim=1)] * 2, dim=1))
    attribution = xplain.attribute(toys.classifier(model), X, "spectral-ig", target=0, score="logit", steps=3)
    assert float(attribution.expected.abs().min()) > 0.1
    assert float((attribution.gap / attribution.expected).abs().max()) < 1e-12


def test_spectral_ig_with_full_overlap_is_straight_line():
    values = xplain.attribute(CLASSIFIER, X, "spectral-ig", target=TARGETS, score="logit", steps=7, overlap=1).values
    expected = xplain.attribute(CLASSIFIER, X, "ig", target=TARGETS, score="logit", steps=7, rule="midpoint").values
    toys.assert_same(values, expected, rtol=1e-8)


def test_spectral_ig_of_rank_one_image():
    """All of an image of one component appears until α = ω: with ω n = 4 intervals that is IG with 4 nodes."""
    rows, columns = torch.linspace(0.2, 0.9, 8, dtype=torch.float64), torch.linspace(0.3, 1, 10, dtype=torch.float64)
    x = torch.outer(rows, columns).expand(1, 3, 8, 10)
    settings = {"target": 1, "score": "logit"}
    values = xplain.attribute(CLASSIFIER, x, "spectral-ig", steps=10, overlap=0.4, **settings).values
    expected = xplain.attribute(CLASSIFIER, x, "ig", steps=4, rule="midpoint", **settings).values
    toys.assert_same(values, expected, rtol=1e-7)


def test_spectral_ig_path_ends():
    """The first point is the baseline and the last the image; the strongest component appears first."""
    image, black = X[0].numpy(), np.zeros((3, 8, 10))
    np.testing.assert_allclose(reference.path_point(image, black, 0.0, 0.4), black, atol=0)
    np.testing.assert_allclose(reference.path_point(image, black, 1.0, 0.4), image, atol=1e-14)
    u, s, vt = np.linalg.svd(image[0])
    strongest = s[0] * np.outer(u[:, 0], vt[0]) / 8  # at α = ω / 8, and no other has begun
    assert s[1] < s[0] * (1 - 0.05 / 0.6)
    np.testing.assert_allclose(reference.path_point(image, black, 0.05, 0.4)[0], strongest, atol=1e-14)


def test_spectral_ig_gap_vanishes_with_steps():
    model = toys.Function(lambda x: torch.stack([(x**3).sum((1, 2, 3)), (x[:, 0] * x[:, 1]).sum((1, 2))], dim=1))
    settings = {"target": 0, "score": "logit"}
    gaps = [
        float(xplain.attribute(toys.classifier(model), X, "spectral-ig", steps=steps, **settings).gap.abs().max())
        for steps in (5, 20, 80)
    ]
    assert gaps[0] > 8 * gaps[1] > 64 * gaps[2] > 0


def test_spectral_ig_of_its_baseline_is_zero():
    values = xplain.attribute(CLASSIFIER, torch.zeros_like(X), "spectral-ig", target=2, steps=3).values
    assert float(values.abs().max()) == 0.0


def test_spectral_ig_rejects_zero_overlap():
    with pytest.raises(UsageError, match="spectral-ig: invalid value overlap=0; use a number > 0 and <= 1"):
        xplain.attribute(CLASSIFIER, X, "spectral-ig", overlap=0)
