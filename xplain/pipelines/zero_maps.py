"""Find the reason why a map is zero everywhere, so that no zero map is returned without a warning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from xplain.core.errors import MODEL_ERRORS, InputError, UsageError, device_error
from xplain.core.types import Attribution, Cost, ScoreKind
from xplain.oracle import Oracle

SATURATED = "the probability is saturated, and its gradient is 0; use the score logit"
ZERO = "the map is zero everywhere"
MakeOracle = Callable[[ScoreKind, Tensor], Oracle]  # (score, indices of the images) -> oracle


def flag_zero_maps(
    result: Attribution, images: Tensor, y: Tensor, score: ScoreKind, make: MakeOracle, *, uses_gradients: bool
) -> Attribution:
    """Return the attribution with flags for the images (B, C, H, W) whose map is zero everywhere.

    y: (B,) target classes. score: the explained score. make: returns an oracle for some of the images.
    uses_gradients: the method uses gradients. If the score is a probability, its gradient is then compared with that of the logit, at
    the cost of two passes for these images. Maps that have another flag get no second one.
    """
    is_zero = (result.values == 0).flatten(1).all(dim=1)
    is_explained, flags, cost = torch.zeros_like(is_zero), {}, Cost()
    for mask in result.flags.values():
        is_explained |= mask.to(is_zero.device)
    if uses_gradients and score in ("prob", "log-prob"):
        flags[SATURATED] = torch.zeros_like(is_zero)
        index = is_zero.nonzero()[:, 0]
        if len(index):
            flags[SATURATED][index], cost = _find_saturated(images[index], y[index], index, score, make)
            is_explained |= flags[SATURATED]
    flags[ZERO] = is_zero & ~is_explained
    return replace(result, flags=result.flags | flags, cost=result.cost + cost)


def _find_saturated(
    images: Tensor, y: Tensor, index: Tensor, score: ScoreKind, make: MakeOracle
) -> tuple[Tensor, Cost]:
    """Return for each image whether the gradient of the score is zero and that of the logit is not, and the cost."""
    has_gradient, cost = [], Cost()
    for kind in (score, "logit"):
        oracle = make(kind, index)
        try:
            gradients = oracle.gradients(images, y).values
        except (*MODEL_ERRORS, InputError, UsageError) as error:
            if known := device_error(error):
                raise known from None
            return torch.zeros_like(y, dtype=torch.bool), cost
        has_gradient.append((gradients != 0).flatten(1).any(dim=1))
        cost += Cost(checks=oracle.cost.forwards)  # of the report, not of the method
    return ~has_gradient[0] & has_gradient[1], cost
