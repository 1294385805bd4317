"""NeFLAG: Algorithm 1, one sample at a time, for given initial points."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient
from tests.reference.mfaba import unit


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
    """Return Σ_i F ⊙ (x - x̃_m), x̃_j = x - ε sign F(x̃_{j-1}) (lemma: ε F / ‖F‖₂); F at x̃_m (end) or x̃_{m-1} (start)."""
    total = torch.zeros_like(image)
    for point in initial:
        for _ in range(steps):
            before = gradient(f, point)
            direction = before.sign() if variant == "sign" else unit(before)
            point = image - radius * direction
        field = before if flux == "start" else gradient(f, point)
        if negative_only and float((field * (point - image)).sum()) >= 0:
            continue
        total += field * (image - point)
    return total / len(initial) if reduce == "mean" else total
