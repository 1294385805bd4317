"""Ranks of values and of pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values: Tensor, *, lowest: bool = False) -> Tensor:
    """Return the rank of each of values (..., N) in its row.

    Rank 0 is the highest value, or the lowest if ``lowest``. Equal values keep their order.
    """
    order = values.argsort(dim=-1, descending=not lowest, stable=True)
    positions = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def pixel_ranks(attributions: Tensor, *, lowest: bool = False) -> Tensor:
    """Return the rank (B, H, W) of each pixel of attributions (B, C, H, W) by its sum over channels.

    Rank 0 is the highest sum, or the lowest if ``lowest``. Ties keep raster order.
    """
    return ranks(attributions.sum(dim=1).flatten(1), lowest=lowest).unflatten(1, attributions.shape[2:])
