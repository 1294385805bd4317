"""Points on lines and their quadrature, Gaussian blurs, and cosine transforms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Images (..., H, W) convolved with a Gaussian of ``sigma`` pixels, cut at 4 sigma, borders mirrored."""
    kernel = gaussian_weights(sigma, max(int(4 * sigma + 0.5), 1)).to(x)
    for axis in (-1, -2):
        x = _convolve_line(x.transpose(axis, -1), kernel).transpose(axis, -1)
    return x


def gaussian_weights(sigma: float, radius: int) -> Tensor:
    """(2 radius + 1,) Gaussian weights at whole pixels, in float64; they sum to one."""
    grid = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-((grid / sigma) ** 2) / 2)
    return kernel / kernel.sum()


def _convolve_line(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate the last axis with ``kernel``, mirrored as often as the kernel is wide (edge pixels repeated)."""
    length, radius = x.shape[-1], len(kernel) // 2
    index = torch.arange(-radius, length + radius, device=x.device) % (2 * length)
    padded = x[..., torch.where(index < length, index, 2 * length - 1 - index)]
    return F.conv1d(padded.reshape(-1, 1, padded.shape[-1]), kernel[None, None]).reshape(x.shape)


def cosine_basis(size: int, like: Tensor) -> Tensor:
    """(size, size) the orthonormal cosine transform DCT-II; row j is cos(π j (n + 1/2) / size), scaled to length one."""
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.pi / size * n[:, None] * (n + 0.5)) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return basis.to(like)


def rise_blur(x: Tensor) -> Tensor:
    """Images (..., H, W) under the RISE program's 11 x 11 kernel, zeros beyond the border.

    Its "Gaussian of 5" is a unit impulse on 11 x 11 pixels under a mirrored Gaussian filter, which makes it nearly a box:
    0.00883 in the centre and 0.00774 in the corners, where a cut Gaussian has 0.0120 and 0.0044.
    """
    impulse = torch.zeros(11, dtype=torch.float64)
    impulse[5] = 1
    line = _convolve_line(impulse, gaussian_weights(5.0, 20).to(impulse))
    kernel = torch.outer(line, line).to(x.dtype).to(x.device)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return F.conv2d(flat, kernel[None, None], padding=5).reshape(x.shape)
