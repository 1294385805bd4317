"""Tests of SmoothGrad, SmoothGrad² and VarGrad."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import smoothgrad as reference
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return Streams.of(X, seed, "smoothgrad").normal(torch.arange(count), (3, 8, 10), torch.float64)


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("noise", [0.15, 0.6])
@pytest.mark.parametrize("kind", ["mean", "absolute", "square", "variance"])
def test_smoothgrad_equals_reference(kind, noise, batch_size):
    attribution = xplain.attribute(
        CLASSIFIER, X, "sg", target=TARGETS, samples=7, noise=noise, kind=kind, batch_size=batch_size, seed=5
    )
    for value, image, target, noises in zip(attribution.values, X, TARGETS, draws(7, seed=5), strict=True):
        f = gradients.logit(NETWORK, target)
        toys.assert_same(value, reference.smoothgrad(f, image, list(noises), noise, kind))


def test_smoothgrad_variance_of_single_sample():
    values = xplain.attribute(CLASSIFIER, X, "sg", samples=1, kind="variance").values
    assert float(values.abs().max()) == 0.0


@pytest.mark.parametrize(("kind", "power"), [("mean", 1), ("square", 2), ("variance", None)])
def test_smoothgrad_linear_model_closed_form(kind, power):
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "sg", target=1, samples=5, kind=kind).values
    expected = torch.zeros_like(X) if power is None else (weight[1] ** power).expand_as(X)
    assert float((values - expected).abs().max()) < 1e-14


def test_smoothgrad_without_noise_is_gradient():
    plain = xplain.attribute(CLASSIFIER, X, "saliency", target=TARGETS).values
    mean, variance = (
        xplain.attribute(CLASSIFIER, X, "sg", target=TARGETS, samples=4, noise=0, kind=kind).values
        for kind in ("mean", "variance")
    )
    toys.assert_same(mean, plain)
    assert float(variance.abs().max()) < 1e-25


def test_smoothgrad_square_is_variance_plus_mean():
    mean, square, variance = (
        xplain.attribute(CLASSIFIER, X, "sg", target=TARGETS, samples=9, kind=kind).values
        for kind in ("mean", "square", "variance")
    )
    assert float(variance.min()) >= 0.0
    toys.assert_same(square, variance + mean**2)


def test_smoothgrad_mean_converges():
    """f = Σ x³: E[3 (x + ε)²] = 3 (x² + σ²); the mean of n samples is within 5 standard errors."""
    model = toys.Function(lambda x: torch.stack([(x**3).sum(dim=(1, 2, 3))] * 2, dim=1))
    x, n = X[:1], 4000
    sigma = 0.2 * (x.max() - x.min())
    values = xplain.attribute(toys.classifier(model), x, "sg", target=0, samples=n, noise=0.2).values
    error = (values - 3 * (x**2 + sigma**2)) / (3 * (4 * x**2 * sigma**2 + 2 * sigma**4).sqrt() / n**0.5)
    assert float(error.abs().max()) < 5.0
    assert 0.8 < float(error.square().mean()) < 1.2


def test_smoothgrad_noise_scales_with_range():
    """f = Σ x²/2 has the gradient x, so VarGrad is the variance of the noise; halving the contrast quarters it."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([(x**2).sum(dim=(1, 2, 3)) / 2] * 2, dim=1)))
    x = torch.stack([X[0], 0.5 * X[0]])
    values = xplain.attribute(model, x, "sg", target=0, samples=2000, noise=0.1, kind="variance").values
    spread = [(image.max() - image.min()) * 0.1 for image in x]
    for value, sigma in zip(values, spread, strict=True):
        assert (
            abs(float(value.mean() / sigma**2) - 1) < 0.02
        )  # 240 values of 2000 samples: 5 standard errors are 0.0102
