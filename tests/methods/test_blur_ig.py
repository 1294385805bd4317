"""BlurIG against its definition and closed forms."""

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
def test_equals_the_literal_version(spacing):
    clf = classifier(small_net())
    got = xplain.attribute(clf, X, "blur-ig", target=1, steps=7, max_sigma=5, spacing=spacing)
    for k in range(2):
        expected = reference.blur_ig(X[k].numpy(), gradient_of(clf, 1), 7, 5, spacing)
        np.testing.assert_allclose(got.values[k], expected, atol=1e-13)


@pytest.mark.parametrize("sigma", [1.5, 3.0, 20.0])
def test_blur_is_the_gaussian_of_scipy(sigma):
    x = images(1, 30, 20)
    expected = gaussian_filter(x[0].numpy(), (0, sigma, sigma), mode="reflect", truncate=8)
    np.testing.assert_allclose(blur(x, torch.tensor([sigma], dtype=torch.float64))[0, 0], expected, atol=2e-5)


def test_every_sigma_blurs():
    """The image changes as σ² however small σ is, where a kernel that is cut off changes nothing."""
    sigmas = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
    change = (blur(X, sigmas) - X[:, None]).flatten(2).norm(dim=2)
    assert (change > 0).all()
    torch.testing.assert_close(
        change[:, 1] / change[:, 0], torch.full((2,), 100.0, dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_linear_models_are_exact_on_any_grid():
    weight = torch.randn(3, 3, 8, 10, dtype=torch.float64)
    clf = classifier(Linear(weight))
    for steps, spacing in ((1, "linear"), (3, "geometric")):
        got = xplain.attribute(clf, X, "blur-ig", target=2, steps=steps, max_sigma=4, spacing=spacing)
        end = blur(X, torch.tensor([4.0], dtype=torch.float64))[:, 0]
        torch.testing.assert_close(got.values, weight[2] * (X - end))
        torch.testing.assert_close(got.gap, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_quadratic_models_are_complete_on_any_grid():
    model = Function(lambda x: torch.stack([(x[:, 0] * x[:, 1]).sum((1, 2)), (x**2).sum((1, 2, 3))], dim=1))
    for target in (0, 1):
        got = xplain.attribute(classifier(model), X, "blur-ig", target=target, steps=2, max_sigma=4)
        torch.testing.assert_close(got.gap, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_constant_images_get_nothing():
    x = torch.full_like(X, 0.3)
    got = xplain.attribute(classifier(small_net()), x, "blur-ig", target=0, steps=5)
    torch.testing.assert_close(got.values, torch.zeros_like(x), atol=1e-13, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_gap_is_small_on_noise(seed):
    """PAIR's program misses 18 % of the sum on noise."""
    clf = classifier(small_net(seed))
    got = xplain.attribute(clf, images(4, 16, 16), "blur-ig", target=0)
    assert (got.gap.abs() <= 0.05 * got.expected.abs() + 0.005).all()
