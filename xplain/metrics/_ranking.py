"""The order of values: where each stands among the values of its row or its image."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values: Tensor, *, lowest: bool = False) -> Tensor:
    """The place of each of values (..., N) in its row, 0 for the highest, or the lowest; equal ones keep their order."""
    order = values.argsort(dim=-1, descending=not lowest, stable=True)
    counted = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, counted)


def pixel_ranks(attributions: Tensor, *, lowest: bool = False) -> Tensor:
    """(B, H, W) the place of each pixel of (B, C, H, W) by its sum over channels; ties keep raster order."""
    return ranks(attributions.sum(dim=1).flatten(1), lowest=lowest).unflatten(1, attributions.shape[2:])
