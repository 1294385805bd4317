"""Target classes, contrast classes, and the score that is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from xplain.core.config import SIMILAR, parse_count
from xplain.core.errors import UsageError
from xplain.core.types import ScoreKind
from xplain.models import Classifier

Classes = int | str | Sequence[int | str] | Tensor
RUNNER_UP = "runner-up"
INTEGER_TYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


def compute_scores(logits: Tensor, y: Tensor, kind: ScoreKind, against: Tensor | None = None) -> Tensor:
    """Return the score of each row: the scalar that is explained.

    logits: (rows, classes).
    y: (rows,) target classes, or (rows, S) for the scores of S classes per row.
    kind: ``logit``; ``prob``, the softmax; ``log-prob``, the log-softmax; ``margin``, the logit of the target minus the
    largest other logit.
    against: (rows, A) contrast classes: the score is that of the target minus the mean of theirs (``margin``: minus their
    largest logit). Ignored if y is (rows, S).
    """
    if kind == "margin":
        return _compute_margins(logits, y, against)
    values = _transform_logits(logits, kind)
    if y.ndim == 2:
        return values.gather(1, y)
    scores = values.gather(1, y[:, None])[:, 0]
    if against is None:
        return scores
    return scores - values.gather(1, against).mean(dim=1)


def _compute_margins(logits: Tensor, y: Tensor, against: Tensor | None) -> Tensor:
    """Return the logits of the targets minus the largest logits of the contrast classes (default: of all others)."""
    if y.ndim == 2:
        return torch.stack([_compute_margins(logits, column, None) for column in y.unbind(dim=1)], dim=1)
    contrasts = logits.scatter(1, y[:, None], -torch.inf) if against is None else logits.gather(1, against)
    return logits.gather(1, y[:, None])[:, 0] - contrasts.amax(dim=1)


def _transform_logits(logits: Tensor, kind: Literal["logit", "prob", "log-prob"]) -> Tensor:
    """Return the logits, probabilities or log-probabilities (rows, classes)."""
    match kind:
        case "logit":
            return logits
        case "prob":
            return logits.softmax(dim=1)
        case "log-prob":
            return logits.log_softmax(dim=1)


@dataclass(frozen=True)
class TargetSpec:
    """The classes that a command explains for each image, and the contrast classes.

    kind: ``auto``, the top class; ``label``, the class that the image's folder is named after; ``top``, the ``count`` best
    classes; ``class``, the class ``index``; ``similar``, the similarity to the image ``reference``, the only output of the model.
    against: indices of the contrast classes, ``runner-up``, or None.
    """

    kind: Literal["auto", "label", "top", "class", "similar"]
    count: int = 1
    index: int = 0
    reference: str = ""
    against: str | tuple[int, ...] | None = None

    @classmethod
    def parse(cls, target: str, against: str | None, classifier: Classifier) -> TargetSpec:
        """Parse the values of ``--target`` and ``--against``. Raises UsageError if the classifier has no such class.

        classifier: as ``runtime.load_model`` returns it for this target.
        """
        if target.startswith(SIMILAR):
            if against is not None:
                raise UsageError("--target similar:IMAGE has no contrast classes", "remove --against")
            return cls("similar", reference=target.removeprefix(SIMILAR))
        contrasts = None if against is None else _parse_contrasts(against, classifier)
        if target == "auto":
            return cls("auto", against=contrasts)
        if target == "label":
            return cls("label", against=contrasts)
        if target.startswith("top:"):
            count = parse_count(target.removeprefix("top:"))
            if not count:
                raise UsageError(f"invalid target {target!r}", "use top:K with K >= 1")
            return cls("top", count=count, against=contrasts)
        return cls("class", index=classifier.class_names.find(target), against=contrasts)

    def suffix(self, index: int) -> str:
        """Return the part of a file name that tells the class ``index`` or the reference apart; empty for the top class."""
        if self.kind == "similar":
            return f"similar-{Path(self.reference).stem}"
        return "" if self.kind == "auto" else str(index)

    def targets(self, logits: Tensor, labels: Sequence[int | None]) -> list[Tensor]:
        """Return one tensor (B,) of target classes per explained class.

        logits: (B, classes). labels: the class of each image, or None; the target of an image without a label is -1.
        """
        if self.kind == "top":
            return list(logits.topk(min(self.count, logits.shape[1]), dim=1).indices.unbind(dim=1))
        if self.kind == "label":
            classes = [-1 if label is None else label for label in labels]
            return [torch.tensor(classes, dtype=torch.long, device=logits.device)]
        if self.kind == "auto":
            return [logits.argmax(dim=1)]
        if not 0 <= self.index < logits.shape[1]:
            raise _index_error(self.index, logits.shape[1])
        return [torch.full((len(logits),), self.index, device=logits.device)]

    def contrasts(self, classifier: Classifier, logits: Tensor, y: Tensor) -> Tensor | None:
        """Return the contrast classes (B, A) for the targets y (B,), or None."""
        against = list(self.against) if isinstance(self.against, tuple) else self.against
        return find_contrasts(classifier, against, logits, y)


def _parse_contrasts(text: str, classifier: Classifier) -> str | tuple[int, ...]:
    """Return the classes that ``--against`` names, or ``runner-up``."""
    if text == RUNNER_UP:
        return text
    if text in classifier.labels:  # the name of a class may contain a comma
        return (classifier.class_names.find(text),)
    return tuple(classifier.class_names.find(part.strip()) for part in text.split(",") if part.strip())


def find_targets(classifier: Classifier, target: Classes | None, logits: Tensor) -> Tensor:
    """Return the target classes (B,).

    target: the class of all images, or one class per image; None: the top class.
    logits: (B, classes). Raises UsageError.
    """
    if target is None:
        return logits.argmax(dim=1)
    indices = _find_indices(classifier, target, logits)
    if indices.ndim > 1 or indices.numel() not in (1, len(logits)):
        targets = f"{len(indices)} targets" if indices.ndim == 1 else f"targets of shape {tuple(indices.shape)}"
        raise UsageError(f"got {targets} for {len(logits)} images", "pass one target, or one target per image")
    return indices.expand(len(logits))


def find_contrasts(classifier: Classifier, against: Classes | None, logits: Tensor, y: Tensor) -> Tensor | None:
    """Return the contrast classes (B, A), or None if ``against`` is None.

    against: the contrast classes of all images, or (B, A) classes; ``runner-up``: the best class that is not the target.
    logits: (B, classes). y: (B,) target classes. Raises UsageError.
    """
    if against is None:
        return None
    if isinstance(against, str) and against == RUNNER_UP:
        if logits.shape[1] < 2:
            raise UsageError("a model with one class has no runner-up", "remove --against")
        return logits.scatter(1, y[:, None], -torch.inf).argmax(dim=1, keepdim=True)
    contrasts = _find_indices(classifier, against, logits)
    if contrasts.ndim < 2:
        contrasts = contrasts.reshape(1, -1).expand(len(y), -1)
    if contrasts.ndim != 2 or len(contrasts) != len(y) or contrasts.shape[1] == 0:
        raise UsageError(
            f"contrast classes of shape {tuple(contrasts.shape)} do not match {len(y)} images",
            "pass shape (A,) or (B, A)",
        )
    if bool((contrasts == y[:, None]).any()):
        raise UsageError("the target class is also a contrast class", "remove it from the contrast classes")
    if any(len(set(row)) < len(row) for row in contrasts.tolist()):
        raise UsageError("the contrast classes contain a duplicate", "pass each class once")
    return contrasts


def _find_indices(classifier: Classifier, classes: Classes, logits: Tensor) -> Tensor:
    """Return class indices, checked against the number of classes. Raises UsageError."""
    if isinstance(classes, str):
        classes = [classifier.class_names.find(classes)]
    elif isinstance(classes, Sequence) and not isinstance(classes, bytes):
        classes = [classifier.class_names.find(item) if isinstance(item, str) else item for item in classes]
    try:
        if isinstance(classes, bytes):
            raise TypeError
        indices = torch.as_tensor(classes, device=logits.device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UsageError(f"invalid classes {classes!r}", "use class indices, WordNet IDs or names") from None
    if not indices.numel():
        raise UsageError("no class is given", "pass class indices, WordNet IDs or names")
    if indices.dtype not in INTEGER_TYPES:
        raise UsageError(f"class indices must be integers, got {indices.dtype}", "pass an integer tensor")
    indices = indices.long()
    count = logits.shape[1]
    is_invalid = (indices < 0) | (indices >= count)
    if bool(is_invalid.any()):
        raise _index_error(int(indices[is_invalid].flatten()[0]), count)
    return indices


def _index_error(index: int, count: int) -> UsageError:
    return UsageError(f"class index {index} is out of range", f"use an index from 0 to {count - 1}")


def has_finite_logits(logits: Tensor) -> Tensor:
    """Return (B,) bool: whether all logits (B, classes) of the image are finite."""
    return logits.isfinite().all(dim=1)
