"""Gaussian blurs, the cosine transform and baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.ndimage import gaussian_filter

from tests.helpers import toys
from tests.reference.perturbation import rise_blur as literal_rise_blur
from xplain.core.rng import Streams
from xplain.data.baselines import make_baseline
from xplain.data.filters import cosine_basis, gaussian_blur, rise_blur

LIKE = torch.zeros((), dtype=torch.float64)


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
