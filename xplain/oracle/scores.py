"""The score that is explained: a logit, a probability, its logarithm, a margin or a contrast, for each kind of model output."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.scores import ContrastScore
from xplain.core.types import ScoreKind
from xplain.models.outputs import OutputKind

SOFTMAX = OutputKind("softmax")
# The scores that the oracle computes: a ScoreKind, or ``double-prob``, the softmax of the probabilities, for methods whose authors
# apply it twice.
ComputedScore = str


def compute_scores(
    logits: Tensor, y: Tensor, kind: ComputedScore, against: Tensor | None = None, output: OutputKind = SOFTMAX
) -> Tensor:
    """Return the score of each row: the scalar that is explained.

    logits: (rows, classes).
    y: (rows,) target classes, or (rows, S) for the scores of S classes per row.
    kind: ``logit``; ``prob``, the probability; ``log-prob``, its logarithm; ``margin``, see ``_compute_margins``; ``double-prob``;
    ``contrast:...``, the logit minus ``gamma`` times the mean logit of the contrast classes, which it requires.
    against: (rows, A) contrast classes: the score is that of the target minus the mean of theirs (``margin``: minus their
    largest logit). Ignored if y is (rows, S). The logit of a binary model is the margin of a class over the other already, so
    that a contrast does not change it.
    output: the meaning of the logits. Raises UsageError if the score is not defined for it.
    """
    check_score(kind, output, logits.shape[1])
    if kind == "margin":
        return _compute_margins(logits, y, against, output)
    if output.activation == "binary" and against is not None and kind != "prob":
        kind, against = "logit", None  # log p - log(1 - p) is the logit
    contrast = ContrastScore.parse(kind)
    if contrast is not None and (against is None or y.ndim == 2):
        raise UsageError(f"score={kind} requires contrast classes", "set them by against")
    values = logits if contrast is not None else _transform_logits(logits, kind, output)
    if y.ndim == 2:
        return values.gather(1, y)
    scores = values.gather(1, y[:, None])[:, 0]
    if against is None:
        return scores
    return scores - contrast_weight(kind) * values.gather(1, against).mean(dim=1)


def contrast_weight(kind: ComputedScore) -> float:
    """Return the factor of the mean of the contrast classes in a score."""
    contrast = ContrastScore.parse(kind)
    return 1.0 if contrast is None else contrast.gamma


def check_score(kind: ComputedScore, output: OutputKind, classes: int | None = None) -> None:
    """Raise UsageError if a score is not defined for the output of a model. classes: their number, None if unknown."""
    if kind == "double-prob" and output.activation != "softmax":
        raise UsageError("a softmax of probabilities requires a model with a softmax", "use the probability")
    is_contrast = ContrastScore.parse(kind) is not None
    if is_contrast and (output.activation == "binary" or classes == 1):
        what = "the model has one logit, that of a class over the other"
        if output.activation != "binary":
            what = "the model returns a single value"
        raise UsageError(f"score={kind} is not defined, because {what}", "use the score logit")
    if output.has_probabilities:
        return
    if kind in ("prob", "log-prob"):
        raise UsageError(
            f"score={kind} is not defined, because the model returns values, not probabilities",
            "use the score logit, or --activation sigmoid if the output is a logit",
        )
    if kind == "margin" and classes == 1:
        raise UsageError(
            "score=margin is not defined, because the model returns a single value",
            "use the score logit, or --activation sigmoid if the output is a logit",
        )


def available_score(kind: ScoreKind, output: OutputKind) -> ScoreKind:
    """Return the score, or ``logit`` (the value itself) instead of a probability if the output has no probabilities."""
    is_probability = kind in ("prob", "log-prob")
    return "logit" if is_probability and not output.has_probabilities else kind


def _compute_margins(logits: Tensor, y: Tensor, against: Tensor | None, output: OutputKind) -> Tensor:
    """Return the logits of the targets minus the largest logits of the contrast classes.

    Without contrast classes: minus the largest of all others (softmax, values), or minus the threshold (sigmoid).
    The margin of a binary model is the logit of the target.
    """
    if y.ndim == 2:
        return torch.stack([_compute_margins(logits, column, None, output) for column in y.unbind(dim=1)], dim=1)
    targets = logits.gather(1, y[:, None])[:, 0]
    if output.activation == "binary":
        return targets
    if against is not None:
        return targets - logits.gather(1, against).amax(dim=1)
    if output.activation == "sigmoid":
        return targets - output.logit_thresholds(logits).expand(logits.shape[1])[y]
    return targets - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)


def _transform_logits(logits: Tensor, kind: ComputedScore, output: OutputKind) -> Tensor:
    """Return the logits, probabilities or log-probabilities (rows, classes)."""
    match kind:
        case "prob":
            return output.probabilities(logits)
        case "double-prob":
            return output.probabilities(logits).softmax(dim=1)
        case "log-prob":
            return output.log_probabilities(logits)
    return logits
