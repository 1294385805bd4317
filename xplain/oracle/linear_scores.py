"""Scores that are sums of transformed logits with fixed weights, which a compiled gradient can compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xplain.models.outputs import OutputKind
from xplain.oracle.scores import ComputedScore, contrast_weight

Transform = Callable[[Tensor], Tensor]


def list_transforms(output: OutputKind) -> dict[str, Transform]:
    """Return the functions of logits (rows, classes) by the score that they define."""
    transforms: dict[str, Transform] = {"logit": _identity}
    if output.has_probabilities:
        transforms |= {"prob": output.probabilities, "log-prob": output.log_probabilities}
    return transforms


def _identity(logits: Tensor) -> Tensor:
    return logits


def score_weights(
    y: Tensor, kind: ComputedScore, against: Tensor | None, output: OutputKind, classes: int
) -> Tensor | None:
    """Return weights (rows, transforms, classes) so that the score is the weighted sum of all transformed logits.

    y: (rows,) target classes, or (rows, S). against: (rows, A) contrast classes, or None; arguments as in ``compute_scores``.
    Returns None for other scores, such as margins and the scores of several classes per row.
    """
    names = list(list_transforms(output))
    if output.activation == "binary" and against is not None and kind != "prob":
        kind, against = "logit", None
    is_contrast = kind.startswith("contrast")
    name = "logit" if is_contrast else kind
    if y.ndim != 1 or name not in names or (is_contrast and against is None):
        return None
    row = torch.zeros(len(y), classes)
    row.scatter_(1, y[:, None], 1.0)
    if against is not None:
        share = torch.full(against.shape, -contrast_weight(kind) / against.shape[1])
        row.scatter_add_(1, against, share)
    weights = torch.zeros(len(y), len(names), classes)
    weights[:, names.index(name)] = row
    return weights
