"""NeFLAG, Algorithm 1, sample by sample; the initial points are given."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def neflag(
    f: Scalar,
    image: Tensor,
    initial: list[Tensor],
    *,
    radius: float,
    steps: int,
    variant: str,
    flux: str,
    reduce: str = "sum",
    negative_only: bool = False,
) -> Tensor:
    """Σ_i F ⊙ (x - x̃_m), x̃_j = x - ε sign F(x̃_{j-1}) (lemma: ε F / ‖F‖₂); F at x̃_m (end) or x̃_{m-1} (start)."""
    total = torch.zeros_like(image)
    for point in initial:
        for _ in range(steps):
            before = gradient(f, point)
            norm = float((before**2).sum()) ** 0.5
            direction = before.sign() if variant == "sign" else before / norm if norm > 0 else torch.zeros_like(before)
            point = image - radius * direction
        field = before if flux == "start" else gradient(f, point)
        if negative_only and float((field * (point - image)).sum()) >= 0:
            continue
        total += field * (image - point)
    return total / len(initial) if reduce == "mean" else total
