"""Linear imputation: missing pixels as weighted means of their neighbours, all solved at once where the images are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-6  # of the residual, as a share of the right side
CHECK = 8  # iterations between looks at whether all systems are solved
MOST = 2000  # iterations; a whole image missing but for one pixel takes under a hundred


def impute(images: Tensor, missing: Tensor) -> Tensor:
    """Images (N, C, H, W) whose missing pixels (N, 1, H, W) are the weighted means of their eight neighbours.

    Weights are 1/6 for the four next to a pixel and 1/12 for the diagonal ones, divided by their sum at the border; neighbours may be
    missing too, so this is a linear system for each channel: (D - W) u = W x on the missing pixels. Solved by
    conjugate gradients in the images' type, each system by its own steps until its residual is TOLERANCE of the right side.
    Every image must keep a pixel.
    """
    gone = missing.to(images.dtype)
    return torch.where(missing, _solve(_around(images.masked_fill(missing, 0)) * gone, gone), images)


def _around(x: Tensor) -> Tensor:
    """(..., H, W) weighted sums of the neighbours of each pixel; nothing beyond the border."""
    x = F.pad(x, (1, 1, 1, 1))
    lines = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    return (lines[..., :-2] + 2 * lines[..., 1:-1] + lines[..., 2:] - 4 * x[..., 1:-1, 1:-1]) / 12


def _solve(right: Tensor, gone: Tensor) -> Tensor:
    """u (N, C, H, W) with (D - W) u = ``right`` on the pixels where ``gone`` (N, 1, H, W) is 1, and 0 elsewhere."""
    weight, levels = _around(torch.ones_like(gone)), _levels(gone)
    u, residual = torch.zeros_like(right), right
    least = TOLERANCE**2 * _dot(right, right)
    ahead = _precondition(residual, levels)
    step, size = ahead, _dot(residual, ahead)
    for k in range(MOST):
        busy = _dot(residual, residual) > least  # solved systems stand still, so that no system depends on another
        if k % CHECK == 0 and not busy.any():
            break
        pushed = gone * (weight * step - _around(step))
        length = torch.where(busy, size / _dot(step, pushed), 0)
        u, residual = u + length * step, residual - length * pushed
        ahead = _precondition(residual, levels)
        before, size = size, _dot(residual, ahead)
        step = torch.where(busy, ahead + size / before * step, step)
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(-2, -1), keepdim=True)


def _levels(gone: Tensor) -> list[Tensor]:
    """Where each level of ever coarser grids has a hat, a tent over two cells, that touches no known pixel."""
    levels = [gone]
    while min(levels[-1].shape[-2:]) > 2:
        levels.append(1 - F.max_pool2d(1 - levels[-1], 3, stride=2, padding=1))
    return levels


def _precondition(residual: Tensor, levels: list[Tensor]) -> Tensor:
    """The sum over levels of hats times the residual under them: Bramble, Pasciak and Xu's preconditioner (1990).

    It makes the number of iterations nearly independent of how far the next known pixel is. All hats have about the same
    energy, so none is scaled.
    """
    parts = [residual]
    for level in levels[1:]:
        parts.append(_coarsen(parts[-1]) * level)
    found = parts.pop()
    while parts:
        finer = parts.pop()
        found = finer + _refine(found, finer.shape[-2:])
    return found


def _coarsen(x: Tensor) -> Tensor:
    """The transpose of ``_refine``."""
    for axis in (-1, -2):
        x = x.transpose(axis, -1)
        even, half = x[..., ::2].clone(), x[..., 1::2] / 2
        even[..., : half.shape[-1]] += half
        even[..., 1:] += half[..., : even.shape[-1] - 1]
        x = even.transpose(axis, -1)
    return x


def _refine(x: Tensor, sides: torch.Size) -> Tensor:
    """Linear interpolation to a grid of twice the points; coarse points are the even ones."""
    for axis, side in zip((-2, -1), sides, strict=True):
        x = x.transpose(axis, -1)
        fine = x.new_zeros(*x.shape[:-1], side)
        fine[..., ::2] = x
        between = x / 2
        fine[..., 1::2] = between[..., : side // 2]
        fine[..., 1:-1:2] += between[..., 1:][..., : (side - 1) // 2]
        x = fine.transpose(axis, -1)
    return x
