"""DGA, Algorithm 1, with ranks counted value by value."""

from collections.abc import Callable

import torch
from torch import Tensor


def share_at_most(values: Tensor) -> Tensor:
    """Return #{k: v_k <= v_j} / d for each j, by comparing all pairs."""
    flat = values.flatten()
    shares = [int((flat <= value).sum()) / len(flat) for value in flat]
    return torch.tensor(shares, dtype=values.dtype).reshape(values.shape)


def dga(
    local: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    steps: int,
    quantile: float,
    masks: str = "both",
    start: str = "include",
) -> tuple[Tensor, list[Tensor]]:
    """Return Σ_n max(φ_n, 0) over n = 0 .. N (include) or its mean over n = 1 .. N (exclude), and the inputs x̃(0) .. x̃(N).

    local: the attribution φ of an input in units where 0 means removed.
    masks: both, or wc or epc alone and without scale (Eq. 5).
    """
    point, inputs, maps = image, [], []
    for n in range(steps + 1):
        inputs.append(point)
        values = local(point)
        maps.append(values.clamp(min=0))
        weak = share_at_most(values.abs()) <= n / steps
        extreme = share_at_most(values) > quantile
        strong, common = 1.0 - weak.to(values), 1.0 - extreme.to(values)
        if masks == "both":
            point = image * (n / steps * strong + (1 - n / steps) * common)
        else:
            point = image * (strong if masks == "wc" else common)
    total = sum(maps) if start == "include" else sum(maps[1:]) / steps
    return total, inputs
