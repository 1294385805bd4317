"""Quadrature rules, Gaussian blurs, the cosine transform and baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.ndimage import gaussian_filter

from tests.helpers import toys
from tests.reference.perturbation import rise_blur as literal_rise_blur
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.data.baselines import make_baseline
from xplain.data.filters import cosine_basis, gaussian_blur, rise_blur
from xplain.methods._quadrature import quadrature

LIKE = torch.zeros((), dtype=torch.float64)
RULES = ["gauss-legendre", "midpoint", "left", "right", "trapezoid"]


# ------------------------------------------------------------------------------------------------- quadrature


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 7, 50, 200])
def test_weights_sum_to_one_and_nodes_lie_in_order_in_the_unit_interval(rule, steps):
    nodes, weights = quadrature(rule, steps, LIKE)
    assert len(nodes) == len(weights) == steps
    assert abs(weights.sum() - 1) < 1e-14
    assert weights.min() > 0
    assert 0 <= nodes.min() <= nodes.max() <= 1
    assert (nodes.diff() > 0).all()


def test_single_nodes():
    for rule, node in (("left", 0.0), ("right", 1.0), ("midpoint", 0.5), ("gauss-legendre", 0.5)):
        nodes, weights = quadrature(rule, 1, LIKE)
        assert nodes.tolist() == [node]
        assert weights.tolist() == [1.0]


def test_nodes_and_weights_of_four_steps():
    expected = {
        "left": ([0, 0.25, 0.5, 0.75], [0.25] * 4),
        "right": ([0.25, 0.5, 0.75, 1], [0.25] * 4),
        "midpoint": ([0.125, 0.375, 0.625, 0.875], [0.25] * 4),
        "trapezoid": ([0, 1 / 3, 2 / 3, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    }
    for rule, (nodes, weights) in expected.items():
        found = quadrature(rule, 4, LIKE)
        assert found[0].tolist() == pytest.approx(nodes, abs=1e-15)
        assert found[1].tolist() == pytest.approx(weights, abs=1e-15)


def test_two_gauss_legendre_nodes_lie_at_one_over_root_three():
    nodes, weights = quadrature("gauss-legendre", 2, LIKE)
    assert nodes.tolist() == pytest.approx([(1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2], abs=1e-15)
    assert weights.tolist() == pytest.approx([0.5, 0.5], abs=1e-15)


def error(rule: str, steps: int, degree: int) -> float:
    """Of the integral of t^degree over [0, 1]."""
    nodes, weights = quadrature(rule, steps, LIKE)
    return abs(float((weights * nodes**degree).sum()) - 1 / (degree + 1))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_gauss_legendre_is_exact_to_degree_2n_minus_1_and_no_further(steps):
    for degree in range(2 * steps):
        assert error("gauss-legendre", steps, degree) < 1e-14
    # the error for t^2n is (n!)^4 / ((2n + 1) ((2n)!)^2)
    from math import factorial

    known = factorial(steps) ** 4 / ((2 * steps + 1) * factorial(2 * steps) ** 2)
    assert error("gauss-legendre", steps, 2 * steps) == pytest.approx(known, rel=1e-3, abs=1e-15)


@pytest.mark.parametrize("steps", [2, 5, 10])
def test_midpoint_and_trapezoid_are_exact_to_degree_1(steps):
    for rule, panels, factor in (("midpoint", steps, 12), ("trapezoid", steps - 1, 6)):
        assert error(rule, steps, 0) < 1e-15
        assert error(rule, steps, 1) < 1e-15
        # the error for t^2 is 1 / (12 n^2) and 1 / (6 n^2) with n panels
        assert error(rule, steps, 2) == pytest.approx(1 / (factor * panels**2), rel=1e-9)


@pytest.mark.parametrize("rule", ["left", "right"])
def test_left_and_right_are_exact_for_constants_only(rule):
    assert error(rule, 10, 0) < 1e-15
    assert error(rule, 10, 1) == pytest.approx(0.05, rel=1e-12)


def test_a_trapezoid_of_one_node_is_refused():
    with pytest.raises(UsageError, match="trapezoid rule has no meaning at steps=1; give steps=2 or more"):
        quadrature("trapezoid", 1, LIKE)


def test_nodes_take_the_type_of_the_images():
    for dtype in (torch.float32, torch.float64):
        assert {each.dtype for each in quadrature("left", 3, torch.zeros(1, dtype=dtype))} == {dtype}


# ------------------------------------------------------------------------------------------------- blur


def scipys_blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    sigmas = [0.0] * (x.ndim - 2) + [sigma] * 2
    return torch.tensor(gaussian_filter(x.numpy(), sigmas, mode="reflect", truncate=4.0))


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.7, 5.0, 20.0, 60.0])
def test_blur_equals_scipys_with_mirrored_borders(sigma):
    x = toys.images(2, 9, 14)  # at sigma 5 the kernel is 41 pixels wide, at 60 it is 481
    assert (gaussian_blur(x, sigma) - scipys_blur(x, sigma)).abs().max() < 1e-12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 8), (8, 1), (2, 3)])
def test_blur_of_the_smallest_images_equals_scipys(height, width):
    x = toys.images(1, height, width)
    assert (gaussian_blur(x, 2.0) - scipys_blur(x, 2.0)).abs().max() < 1e-12


def test_blur_leaves_a_constant_image_as_it_is():
    x = torch.full((1, 3, 7, 6), 0.3, dtype=torch.float64)
    assert (gaussian_blur(x, 5.0) - x).abs().max() < 1e-15


def test_blur_keeps_the_mean_and_the_channels_apart():
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    x[0, 1, 0, 0] = 1
    blurred = gaussian_blur(x, 3.0)
    assert blurred[0, [0, 2]].abs().max() == 0
    assert abs(blurred[0, 1].sum() - 1) < 1e-14


def test_blur_of_float32_is_close_to_float64():
    x = toys.images(1, 9, 9)
    found = gaussian_blur(x.float(), 5.0)
    assert found.dtype == torch.float32
    assert (found - scipys_blur(x, 5.0)).abs().max() < 1e-6


@pytest.mark.parametrize("blur", [lambda x: gaussian_blur(x, 2.0), rise_blur])
def test_blurs_take_any_axes_before_height_and_width(blur):
    x = toys.images(3, 6, 7)
    expected = blur(x)
    for found, part in (
        (blur(x[1, 2]), expected[1, 2]),
        (blur(x[1]), expected[1]),
        (blur(x[:, None]), expected[:, None]),
    ):
        assert found.shape == part.shape
        assert (found - part).abs().max() < 1e-15


# ------------------------------------------------------------------------------------------------- cosine transform


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_the_cosine_basis_is_scipys_orthonormal_transform(size):
    basis = cosine_basis(size, LIKE)
    np.testing.assert_allclose(basis, dct(np.eye(size), norm="ortho", axis=0), rtol=0, atol=1e-14)
    assert (basis @ basis.T - torch.eye(size, dtype=torch.float64)).abs().max() < 1e-14


# ------------------------------------------------------------------------------------------------- RISE's blur


def test_rises_kernel_is_an_impulse_under_a_mirrored_filter():
    white = torch.zeros(1, 1, 23, 23, dtype=torch.float64)
    white[..., 11, 11] = 1
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    found = rise_blur(white)[0, 0]
    kernel = found[6:17, 6:17]
    np.testing.assert_allclose(kernel, gaussian_filter(impulse, 5.0), rtol=0, atol=1e-15)
    assert float(kernel[5, 5]) == pytest.approx(0.00883, abs=5e-6)
    assert kernel[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == pytest.approx([0.00774] * 4, abs=5e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-14)
    assert found.count_nonzero() == 121


@pytest.mark.parametrize(("height", "width"), [(13, 17), (3, 4), (1, 1)])
def test_rises_blur_is_a_convolution_with_zeros_beyond_the_border(height, width):
    x = toys.images(2, height, width) - 0.5
    found = rise_blur(x)
    for i in range(2):
        assert (found[i] - literal_rise_blur(x[i])).abs().max() < 1e-15
    assert rise_blur(x.float()).dtype == torch.float32


# ------------------------------------------------------------------------------------------------- baselines


MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]


def baseline(kind: str, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return make_baseline(kind, x, MEAN, Streams.of(x, seed, "m"))


def test_plain_baselines_are_constant_images():
    x = toys.images(2, 3, 4)
    assert (baseline("black", x) == 0).all()
    assert (baseline("white", x) == 1).all()
    assert baseline("mean", x)[1, :, 2, 3].tolist() == [0.485, 0.456, 0.406]
    for kind in ("black", "white", "mean", "blur", "uniform"):
        assert baseline(kind, x).shape == x.shape
        assert baseline(kind, x).dtype == x.dtype


def test_the_mean_baseline_is_what_the_normalisation_maps_to_zero():
    model = toys.classifier(toys.small_net(), mean=[0.485, 0.456, 0.406], std=[0.2, 0.3, 0.4])
    x = make_baseline("mean", toys.images(1), model.mean, Streams.of(toys.images(1), 0, "m"))
    assert ((x - model.mean) / model.std).abs().max() == 0


def test_the_blur_baseline_has_a_sigma_of_5_pixels():
    x = toys.images(2, 24, 30)
    assert (baseline("blur", x) - scipys_blur(x, 5.0)).abs().max() < 1e-12


def test_the_uniform_baseline_is_noise_of_each_image_and_seed():
    x = toys.images(3, 40, 50)
    noise = baseline("uniform", x)
    assert 0 < noise.min() < noise.max() < 1
    assert abs(noise.mean() - 0.5) < 4 * (1 / 12 / noise.numel()) ** 0.5
    assert torch.equal(noise[1:2], baseline("uniform", x[1:2]))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, baseline("uniform", x, seed=1))


def test_baselines_leave_the_images_alone():
    x = toys.images(1, 6, 6)
    before = x.clone()
    for kind in ("black", "white", "mean", "blur", "uniform"):
        baseline(kind, x)
    assert torch.equal(x, before)
    assert np.isfinite(baseline("blur", x)).all()
