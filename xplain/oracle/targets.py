"""Target classes and contrast classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from xplain.core.config import SIMILAR
from xplain.core.errors import UsageError, emit_note
from xplain.core.option_values import parse_count
from xplain.models import Classifier
from xplain.models.outputs import OutputKind

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


@dataclass(frozen=True)
class TargetSpec:
    """The classes that a command explains for each image, and the contrast classes.

    kind: ``auto``, the top class; ``label``, the class that the image's folder is named after; ``top``, the ``count`` best
    classes; ``class``, the class ``index``; ``similar``, the similarity to the image ``reference``, the only output of the model.
    against: indices of the contrast classes, ``runner-up``, or None.
    output: the meaning of the logits.
    """

    kind: Literal["auto", "label", "top", "class", "similar"]
    count: int = 1
    index: int = 0
    reference: str = ""
    against: str | tuple[int, ...] | None = None
    output: OutputKind = field(default=OutputKind(), compare=False)

    @classmethod
    def parse(cls, target: str, against: str | None, classifier: Classifier) -> TargetSpec:
        """Parse the values of ``--target`` and ``--against``.

        classifier: as ``runtime.load_model`` returns it for this target.
        Raises UsageError if the classifier has no such class, or values in place of classes.
        """
        output = classifier.output
        if target.startswith(SIMILAR):
            if against is not None:
                raise UsageError("--target similar:IMAGE has no contrast classes", "remove --against")
            return cls("similar", reference=target.removeprefix(SIMILAR), output=output)
        contrasts = None if against is None else _parse_contrasts(against, classifier)
        if target == "auto":
            return cls("auto", against=contrasts, output=output)
        if target == "label":
            if not output.has_probabilities:
                raise UsageError(
                    "--target label requires classes, but the model returns values", "remove --target label"
                )
            return cls("label", against=contrasts, output=output)
        if target.startswith("top:"):
            count = parse_count(target.removeprefix("top:"))
            if not count:
                raise UsageError(f"invalid target {target!r}", "use top:K with K >= 1")
            return cls("top", count=count, against=contrasts, output=output)
        return cls("class", index=classifier.class_names.find(target), against=contrasts, output=output)

    def suffix(self, index: int) -> str:
        """Return the part of a file name that identifies the class ``index`` or the reference; empty for the top class."""
        if self.kind == "similar":
            return f"similar-{Path(self.reference).stem}"
        return "" if self.kind == "auto" else str(index)

    def targets(self, logits: Tensor, labels: Sequence[int | None]) -> list[Tensor]:
        """Return one tensor (B,) of target classes per explained class.

        logits: (B, classes). labels: the class of each image, or None; the target of an image without a label is -1.
        """
        if self.kind == "top":
            return list(self.output.rank_classes(logits, self.count).unbind(dim=1))
        if self.kind == "label":
            classes = [-1 if label is None else label for label in labels]
            return [torch.tensor(classes, dtype=torch.long, device=logits.device)]
        if self.kind == "auto":
            return [_find_top_classes(self.output, logits)]
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
        return _find_top_classes(classifier.output, logits)
    indices = _find_indices(classifier, target, logits)
    if indices.ndim > 1 or indices.numel() not in (1, len(logits)):
        targets = f"{len(indices)} targets" if indices.ndim == 1 else f"targets of shape {tuple(indices.shape)}"
        raise UsageError(f"got {targets} for {len(logits)} images", "pass one target, or one target per image")
    return indices.expand(len(logits))


def _find_top_classes(output: OutputKind, logits: Tensor) -> Tensor:
    """Return the top class (B,) of each image. Emit a note if it is the largest of several values."""
    if not output.has_probabilities and logits.shape[1] > 1:
        emit_note(
            "the model returns several values; explaining the largest one of each image (set the target for another)"
        )
    return output.top_classes(logits)


def find_contrasts(classifier: Classifier, against: Classes | None, logits: Tensor, y: Tensor) -> Tensor | None:
    """Return the contrast classes (B, A), or None if ``against`` is None.

    against: the contrast classes of all images, or (B, A) classes; ``runner-up``: the best class that is not the target.
    logits: (B, classes). y: (B,) target classes. Raises UsageError.
    """
    if against is None:
        return None
    if isinstance(against, str) and against == RUNNER_UP:
        if logits.shape[1] < 2:
            what = "class" if classifier.output.has_probabilities else "output"
            raise UsageError(f"a model with one {what} has no runner-up", "remove --against")
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


def find_nearest_classes(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the classes (B, ``count``) other than the target whose logits are nearest to its logit, the nearest first.

    logits: (B, classes). y: (B,) target classes. All other classes if the model has fewer; of equally near ones, the first.
    """
    distances = (logits - logits.gather(1, y[:, None])).abs()
    distances = distances.scatter(1, y[:, None], torch.inf)  # the target sorts last, whatever the ties
    return distances.argsort(dim=1, stable=True)[:, : min(count, logits.shape[1] - 1)]


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
