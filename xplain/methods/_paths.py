"""Steps of gradient paths: L2 normalization and projection onto the allowed box."""

from __future__ import annotations

import torch
from torch import Tensor


def normalize_l2(gradient: Tensor) -> Tensor:
    """Divide each image of ``gradient`` (..., C, H, W) by its L2 norm; zero gradients stay zero."""
    norm = gradient.flatten(-3).norm(dim=-1)[..., None, None, None]
    return torch.where(norm > 0, gradient / norm.clamp(min=torch.finfo(gradient.dtype).tiny), 0)


def project(point: Tensor, center: Tensor, radius: float | None) -> Tensor:
    """Clamp ``point`` to [0, 1] and, if ``radius`` is given, to ``center`` ± ``radius``."""
    if radius is not None:
        point = torch.minimum(torch.maximum(point, center - radius), center + radius)
    return point.clamp(0, 1)
