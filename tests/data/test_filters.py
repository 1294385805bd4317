"""Tests of xplain.data.filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.ndimage import gaussian_filter

from tests.helpers import toys
from tests.reference.perturbation import rise_blur as literal_rise_blur
from xplain.data.filters import cosine_basis, gaussian_blur, rise_blur


def scipy_blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    sigmas = [0.0] * (x.ndim - 2) + [sigma] * 2
    return torch.tensor(gaussian_filter(x.numpy(), sigmas, mode="reflect", truncate=4.0))


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.7, 5.0, 20.0, 60.0])
def test_gaussian_blur_equals_scipy(sigma):
    x = toys.images(2, 9, 14)  # at sigma 5 the kernel is 41 pixels wide, at 60 it is 481
    assert (gaussian_blur(x, sigma) - scipy_blur(x, sigma)).abs().max() < 1e-12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 8), (8, 1), (2, 3)])
def test_gaussian_blur_of_smallest_images(height, width):
    x = toys.images(1, height, width)
    assert (gaussian_blur(x, 2.0) - scipy_blur(x, 2.0)).abs().max() < 1e-12


def test_gaussian_blur_keeps_constant_image():
    x = torch.full((1, 3, 7, 6), 0.3, dtype=torch.float64)
    assert (gaussian_blur(x, 5.0) - x).abs().max() < 1e-15


def test_gaussian_blur_keeps_channel_means():
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    x[0, 1, 0, 0] = 1
    blurred = gaussian_blur(x, 3.0)
    assert blurred[0, [0, 2]].abs().max() == 0
    assert abs(blurred[0, 1].sum() - 1) < 1e-14


def test_gaussian_blur_of_float32():
    x = toys.images(1, 9, 9)
    blurred = gaussian_blur(x.float(), 5.0)
    assert blurred.dtype == torch.float32
    assert (blurred - scipy_blur(x, 5.0)).abs().max() < 1e-6


@pytest.mark.parametrize("blur", [lambda x: gaussian_blur(x, 2.0), rise_blur])
def test_blurs_accept_any_leading_axes(blur):
    x = toys.images(3, 6, 7)
    expected = blur(x)
    for blurred, part in (
        (blur(x[1, 2]), expected[1, 2]),
        (blur(x[1]), expected[1]),
        (blur(x[:, None]), expected[:, None]),
    ):
        assert blurred.shape == part.shape
        assert (blurred - part).abs().max() < 1e-15


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_cosine_basis_equals_scipy(size):
    basis = cosine_basis(size, torch.zeros((), dtype=torch.float64))
    np.testing.assert_allclose(basis, dct(np.eye(size), norm="ortho", axis=0), rtol=0, atol=1e-14)
    assert (basis @ basis.T - torch.eye(size, dtype=torch.float64)).abs().max() < 1e-14


def test_rise_kernel_is_filtered_impulse():
    image = torch.zeros(1, 1, 23, 23, dtype=torch.float64)
    image[..., 11, 11] = 1
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    blurred = rise_blur(image)[0, 0]
    kernel = blurred[6:17, 6:17]
    np.testing.assert_allclose(kernel, gaussian_filter(impulse, 5.0), rtol=0, atol=1e-15)
    assert float(kernel[5, 5]) == pytest.approx(0.00883, abs=5e-6)
    assert kernel[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == pytest.approx([0.00774] * 4, abs=5e-6)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-14)
    assert blurred.count_nonzero() == 121


@pytest.mark.parametrize(("height", "width"), [(13, 17), (3, 4), (1, 1)])
def test_rise_blur_equals_reference(height, width):
    x = toys.images(2, height, width) - 0.5
    blurred = rise_blur(x)
    for i in range(2):
        assert (blurred[i] - literal_rise_blur(x[i])).abs().max() < 1e-15
    assert rise_blur(x.float()).dtype == torch.float32
