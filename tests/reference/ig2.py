"""IG2, one reference at a time."""

import torch
from torch import Tensor

from tests.reference.gradients import Network, Scalar, gradient


def ig2(
    f: Scalar, embed: Network, image: Tensor, reference: Tensor, steps: int, size: float
) -> tuple[Tensor, list[Tensor]]:
    """Return Σ_j (x_j - x_{j+1}) ⊙ ∇f(x_j) of the path towards a reference, and the points of the path."""
    goal = embed(reference[None])[0].detach()
    point, total, path = image, torch.zeros_like(image), [image]
    for _ in range(steps):
        direction = gradient(lambda z: ((embed(z[None])[0] - goal) ** 2).sum(), point)
        norm = float((direction**2).sum()) ** 0.5
        following = (point - size * direction / norm).clamp(0, 1) if norm > 0 else point
        total = total + (point - following) * gradient(f, point)
        point = following
        path.append(point)
    return total, path
