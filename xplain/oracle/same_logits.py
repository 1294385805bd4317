"""Compare the logits of a rewritten forward pass with those of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.models import Classifier

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

RANDOM_HINT = "use F.dropout with training=self.training, or use saliency, integrated-gradients or rise"


def has_same_logits(actual: Tensor, expected: Tensor, *, loose: bool) -> bool:
    """Return whether logits are equal up to rounding. loose: allow for reduced precision."""
    # the number of rows alone moves the logits of deep networks by 1e-3 in float32; a missed operation moves them far more
    if loose:
        tolerance = 5e-2
    elif expected.dtype == torch.float64:
        tolerance = 1e-9
    else:
        tolerance = 5e-3
    scale = expected.abs().max().clamp(min=1)
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance * scale)


@torch.no_grad()
def refuse_if_random(oracle: Oracle, model: Classifier, x: Tensor, expected: Tensor, method: str) -> None:
    """Raise UsageError if the logits of an image differ from call to call, so that those of a rewritten pass cannot be compared.

    x: (1, C, H, W) the image. expected: (1, classes) its logits in a call before.
    """
    again = oracle.forward(model, x)
    oracle.count_rows(checks=1)
    is_random = oracle.classifier.checks.is_random
    if is_random or not has_same_logits(again, expected, loose=oracle.precision != "fp32"):
        message = f"{method} requires a model that returns the same logits in every call, but the model is random in evaluation mode"
        raise UsageError(message, RANDOM_HINT)
