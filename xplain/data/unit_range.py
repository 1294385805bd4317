"""Check that pixels lie in [0, 1], so that images which are already normalized are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xplain.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

RANGE_TOLERANCE = 1e-5  # for rounding noise
RANGE_HINT = (
    "pass pixels in [0, 1]: divide 8-bit pixels by 255, do not normalize them (the classifier does), "
    "and clamp(0, 1) what a resize overshoots"
)


def check_unit_range(images: Tensor, name: str) -> None:
    """Raise InputError unless the values of a floating-point tensor lie in [0, 1], except for rounding noise."""
    import torch

    if not images.numel():
        return
    extremes = images.aminmax()
    low, high = float(extremes.min), float(extremes.max)
    tolerance = max(RANGE_TOLERANCE, torch.finfo(images.dtype).eps)
    if low < -tolerance or high > 1 + tolerance:
        raise InputError(f"the {name} have values from {low:.7g} to {high:.7g}, not in [0, 1]", RANGE_HINT)
