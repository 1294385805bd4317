"""Gaussian blur, the blur of RISE, and the discrete cosine transform."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Convolve images (..., H, W) with a Gaussian of ``sigma`` pixels, truncated at 4 sigma, with mirrored borders."""
    kernel = gaussian_weights(sigma, max(int(4 * sigma + 0.5), 1)).to(x)
    for axis in (-1, -2):
        x = _convolve_last_axis(x.transpose(axis, -1), kernel).transpose(axis, -1)
    return x


def gaussian_weights(sigma: float, radius: int) -> Tensor:
    """Return Gaussian weights at the integers -radius .. radius: float64 (2 radius + 1,), with sum 1."""
    grid = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-((grid / sigma) ** 2) / 2)
    return kernel / kernel.sum()


def _convolve_last_axis(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate the last axis with ``kernel``. Borders are mirrored including the edge pixel, repeatedly for wide kernels."""
    length, radius = x.shape[-1], len(kernel) // 2
    index = torch.arange(-radius, length + radius, device=x.device) % (2 * length)
    padded = x[..., torch.where(index < length, index, 2 * length - 1 - index)]
    return F.conv1d(padded.reshape(-1, 1, padded.shape[-1]), kernel[None, None]).reshape(x.shape)


def cosine_basis(size: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II matrix (size, size) with the dtype and device of ``like``.

    Row j is cos(π j (n + 1/2) / size), scaled to length 1.
    """
    return _cosine_basis(size, like.dtype, like.device)


@lru_cache(maxsize=8)
def _cosine_basis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.pi / size * n[:, None] * (n + 0.5)) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return basis.to(device, dtype)


def rise_blur(x: Tensor) -> Tensor:
    """Convolve images (..., H, W) with the 11 x 11 kernel of the RISE code, using zero padding.

    RISE creates its Gaussian kernel with sigma 5 by filtering an 11 x 11 unit impulse with reflection padding. The kernel is
    therefore nearly uniform: 0.00883 at the center and 0.00774 in the corners, compared with 0.0120 and 0.0044 for a truncated
    Gaussian.
    """
    impulse = torch.zeros(11, dtype=torch.float64)
    impulse[5] = 1
    line = _convolve_last_axis(impulse, gaussian_weights(5.0, 20).to(impulse))
    kernel = torch.outer(line, line).to(x.dtype).to(x.device)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return F.conv2d(flat, kernel[None, None], padding=5).reshape(x.shape)
