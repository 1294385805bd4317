"""Linear imputation: missing pixels as weighted means of their neighbors, solved for many images at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-6  # norm of the residual relative to the right-hand side
CHECK_EVERY = 8  # iterations between tests for convergence, each of which waits for the device
MAX_ITERATIONS = 2000  # an image with a single known pixel takes under a hundred


def impute(images: Tensor, missing: Tensor) -> Tensor:
    """Return images (N, C, H, W) whose missing pixels (N, 1, H, W) are the weighted means of their eight neighbors.

    Weights are 1/6 for horizontal and vertical neighbors and 1/12 for diagonal ones, divided by their sum at the border.
    Neighbors may be missing too, so each channel is a linear system: (D - W) u = W x on the missing pixels. It is solved
    by conjugate gradients in the dtype of the images; each system stops at a residual of TOLERANCE times the right-hand side.
    Every image must have at least one known pixel.
    """
    mask = missing.to(images.dtype)
    right = _neighbor_sums(images.masked_fill(missing, 0)) * mask
    return torch.where(missing, _solve(right, mask), images)


def _neighbor_sums(x: Tensor) -> Tensor:
    """Return the weighted sums of the neighbors of each pixel of x (..., H, W), with zeros beyond the border."""
    x = F.pad(x, (1, 1, 1, 1))
    lines = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    return (lines[..., :-2] + 2 * lines[..., 1:-1] + lines[..., 2:] - 4 * x[..., 1:-1, 1:-1]) / 12


def _solve(right: Tensor, mask: Tensor) -> Tensor:
    """Return u (N, C, H, W) with (D - W) u = ``right`` where ``mask`` (N, 1, H, W) is 1, and u = 0 elsewhere."""
    diagonal = _neighbor_sums(torch.ones_like(mask))
    levels = _make_levels(mask)
    u, residual = torch.zeros_like(right), right
    threshold = TOLERANCE**2 * _dot(right, right)
    preconditioned = _precondition(residual, levels)
    direction = preconditioned
    energy = _dot(residual, preconditioned)
    for iteration in range(MAX_ITERATIONS):
        active = _dot(residual, residual) > threshold  # solved systems stay as they are, so results ignore the batch
        if iteration % CHECK_EVERY == 0 and not active.any():
            break
        product = mask * (diagonal * direction - _neighbor_sums(direction))
        length = torch.where(active, energy / _dot(direction, product), 0)
        u = u + length * direction
        residual = residual - length * product
        preconditioned = _precondition(residual, levels)
        previous_energy, energy = energy, _dot(residual, preconditioned)
        direction = torch.where(active, preconditioned + energy / previous_energy * direction, direction)
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(-2, -1), keepdim=True)


def _make_levels(mask: Tensor) -> list[Tensor]:
    """Return the masks of ever coarser grids, the finest first.

    A grid point is 1 if its hat function, which spans two cells in every direction, touches missing pixels only.
    """
    levels = [mask]
    while min(levels[-1].shape[-2:]) > 2:
        levels.append(1 - F.max_pool2d(1 - levels[-1], 3, stride=2, padding=1))
    return levels


def _precondition(residual: Tensor, levels: list[Tensor]) -> Tensor:
    """Apply the preconditioner of Bramble, Pasciak and Xu (1990).

    It is the sum, over all levels, of the hat functions weighted by their inner product with the residual. It makes the number of
    iterations nearly independent of the distance to the next known pixel. All hat functions have about the same energy, so none
    is scaled.
    """
    parts = [residual]
    for level in levels[1:]:
        parts.append(_coarsen(parts[-1]) * level)
    total = parts.pop()
    while parts:
        finer = parts.pop()
        total = finer + _refine(total, finer.shape[-2:])
    return total


def _coarsen(x: Tensor) -> Tensor:
    """Apply the transpose of ``_refine``."""
    for axis in (-1, -2):
        x = x.transpose(axis, -1)
        even, half = x[..., ::2].clone(), x[..., 1::2] / 2
        even[..., : half.shape[-1]] += half
        even[..., 1:] += half[..., : even.shape[-1] - 1]
        x = even.transpose(axis, -1)
    return x


def _refine(x: Tensor, sides: torch.Size) -> Tensor:
    """Interpolate x linearly to a grid with twice as many points per side; coarse points become the even ones."""
    for axis, side in zip((-2, -1), sides, strict=True):
        x = x.transpose(axis, -1)
        fine = x.new_zeros(*x.shape[:-1], side)
        fine[..., ::2] = x
        half = x / 2
        fine[..., 1::2] = half[..., : side // 2]
        fine[..., 1:-1:2] += half[..., 1:][..., : (side - 1) // 2]
        x = fine.transpose(axis, -1)
    return x
