"""LA, one image and one class at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def la(target: Scalar, false: list[Scalar], image: Tensor, share: float, steps: int) -> Tensor:
    """Return -Σ ∇f^t(x_{k-1}) ⊙ (x_k - x) over ascents of the false classes and a descent of the target."""
    total = torch.zeros_like(image)
    for followed, sign in [*((score, 1) for score in false), (target, -1)]:
        point = image
        for _ in range(steps):
            target_gradient = gradient(target, point)
            moved = image + sign * share * image * torch.sign(gradient(followed, point))
            point = moved.clamp(0, 1)
            total = total - target_gradient * (point - image)
    return total
