"""Tests of BlurIG: against its definition and closed forms."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import xplain
from tests.helpers.toys import Function, Linear, classifier, images, small_net
from tests.reference import blur_ig as reference
from xplain.methods.blur_ig import blur

X = images(2)


def gradient_of(clf, target):
    def gradient(point):
        x = torch.tensor(point)[None].requires_grad_()
        return torch.autograd.grad(clf(x)[0, target], x)[0][0].numpy()

    return gradient


@pytest.mark.parametrize("spacing", ["geometric", "linear"])
def test_blur_ig_equals_reference(spacing):
    clf = classifier(small_net())
    attribution = xplain.attribute(clf, X, "blur-ig", target=1, steps=7, max_sigma=5, spacing=spacing)
    for k in range(2):
        expected = reference.blur_ig(X[k].numpy(), gradient_of(clf, 1), 7, 5, spacing)
        np.testing.assert_allclose(attribution.values[k], expected, atol=1e-13)


@pytest.mark.parametrize("sigma", [1.5, 3.0, 20.0])
def test_blur_equals_scipy(sigma):
    x = images(1, 30, 20)
    expected = gaussian_filter(x[0].numpy(), (0, sigma, sigma), mode="reflect", truncate=8)
    np.testing.assert_allclose(blur(x, torch.tensor([sigma], dtype=torch.float64))[0, 0], expected, atol=2e-5)


def test_blur_with_small_sigma():
    """The image changes as σ² for every small σ; a truncated kernel would not change it."""
    sigmas = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
    change = (blur(X, sigmas) - X[:, None]).flatten(2).norm(dim=2)
    assert (change > 0).all()
    torch.testing.assert_close(
        change[:, 1] / change[:, 0], torch.full((2,), 100.0, dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_blur_ig_linear_model_is_exact():
    weight = torch.randn(3, 3, 8, 10, dtype=torch.float64)
    clf = classifier(Linear(weight))
    for steps, spacing in ((1, "linear"), (3, "geometric")):
        attribution = xplain.attribute(clf, X, "blur-ig", target=2, steps=steps, max_sigma=4, spacing=spacing)
        end = blur(X, torch.tensor([4.0], dtype=torch.float64))[:, 0]
        torch.testing.assert_close(attribution.values, weight[2] * (X - end))
        torch.testing.assert_close(attribution.gap, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_blur_ig_quadratic_model_is_complete():
    model = Function(lambda x: torch.stack([(x[:, 0] * x[:, 1]).sum((1, 2)), (x**2).sum((1, 2, 3))], dim=1))
    for target in (0, 1):
        attribution = xplain.attribute(classifier(model), X, "blur-ig", target=target, steps=2, max_sigma=4)
        torch.testing.assert_close(attribution.gap, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_blur_ig_constant_image_gives_zero():
    x = torch.full_like(X, 0.3)
    attribution = xplain.attribute(classifier(small_net()), x, "blur-ig", target=0, steps=5)
    torch.testing.assert_close(attribution.values, torch.zeros_like(x), atol=1e-13, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_blur_ig_gap_on_noise(seed):
    """The gap of PAIR's program is 18 % of the sum on noise."""
    clf = classifier(small_net(seed))
    attribution = xplain.attribute(clf, images(4, 16, 16), "blur-ig", target=0)
    assert (attribution.gap.abs() <= 0.05 * attribution.expected.abs() + 0.005).all()
