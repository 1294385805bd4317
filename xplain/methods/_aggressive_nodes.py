"""The line integral of MFABA's Fig. 2, with or without its non-aggressive nodes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xplain.methods._quadrature import quadrature
from xplain.oracle import Oracle

Keep = Literal["all", "aggressive", "other"]


class LineIntegral(NamedTuple):
    """total: attributions (B, C, H, W). kept_share: share of the nodes that were kept (B,)."""

    total: Tensor
    kept_share: Tensor


def integrate_kept_nodes(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    end: Tensor,
    start_score: Tensor,
    nodes: int,
    keep: Keep,
    within: float | None,
) -> LineIntegral:
    """Return (x - end) ⊙ Σ_k w_k ∇f(x(α_k)) over the kept nodes x(α) = end + α (x - end) of a Gauss-Legendre rule.

    A node is aggressive if f(x(α_k)) < ``start_score`` (B,) and its largest distance from x is less than ``within``.
    """
    alphas, weights = quadrature("gauss-legendre", nodes, x)
    line = x - end
    length = line.abs().amax(dim=(1, 2, 3))
    total, kept = torch.zeros_like(x), torch.zeros_like(length)
    for block in oracle.blocks(x, nodes):
        images = block.images
        alpha = alphas[block.points]
        points = torch.lerp(end[images, None], x[images, None], alpha[None, :, None, None, None])
        row = block.image_indices(x.device)
        result = oracle.gradients(points.flatten(0, 1), y[row], row)
        is_kept = result.scores.unflatten(0, block.shape) < start_score[images, None]
        if within is not None:
            is_kept = is_kept & ((1 - alpha) * length[images, None] < within)
        if keep == "other":
            is_kept = ~is_kept
        elif keep == "all":
            is_kept = torch.ones_like(is_kept)
        factors = weights[block.points] * is_kept
        total[images] += torch.einsum("bk,bkchw->bchw", factors, result.values.unflatten(0, block.shape))
        kept[images] += is_kept.sum(dim=1).to(kept.dtype)
    return LineIntegral(line * total, kept / nodes)
