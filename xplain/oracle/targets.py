"""Target classes, contrast classes, and the score that is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xplain.core.config import parse_count
from xplain.core.errors import InputError, UsageError
from xplain.core.types import ScoreKind
from xplain.models import Classifier

Classes = int | str | Sequence[int | str] | Tensor
RUNNER_UP = "runner-up"


def check_images(classifier: Classifier, images: Tensor, name: str = "images") -> Tensor:
    """Images or attributions on the classifier's device in its type.

    Raises UsageError unless they are floating (B, C, H, W) with B from 1, and InputError unless they are finite.
    """
    if images.ndim != 4 or not images.is_floating_point():
        what = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        hint = "divide 8-bit pixels by 255; add the batch axis"
        raise UsageError(
            f"{name} {what} are not floating (B, C, H, W)", hint if name == "images" else "give raw values"
        )
    if not images.numel():
        raise UsageError(f"{name} {tuple(images.shape)} are empty", "give at least one")
    if not bool(images.isfinite().all()):
        raise InputError(f"the {name} hold NaN or infinity", "give finite values")
    images = images.clone() if images.is_inference() else images.detach()
    return images.to(classifier.device, classifier.dtype)


def check_logits(logits: Tensor) -> Tensor:
    """(B,) bool: the model's logits are finite for this image."""
    return logits.isfinite().all(dim=1)


def find_targets(classifier: Classifier, target: Classes | None, logits: Tensor) -> Tensor:
    """(B,) target classes: the top class where ``target`` is None, else one for all images or one for each."""
    if target is None:
        return logits.argmax(dim=1)
    found = _indices(classifier, target, logits)
    if found.ndim > 1 or found.numel() not in (1, len(logits)):
        what = f"{len(found)} targets" if found.ndim == 1 else f"targets {tuple(found.shape)}"
        raise UsageError(f"{what} for {len(logits)} images", "give one, or one for each image")
    return found.expand(len(logits))


def find_contrasts(classifier: Classifier, against: Classes | None, logits: Tensor, y: Tensor) -> Tensor | None:
    """(B, A) rival classes of each image, or None. ``runner-up`` is the best class that is not the target."""
    if against is None:
        return None
    if isinstance(against, str) and against == RUNNER_UP:
        if logits.shape[1] < 2:
            raise UsageError("there is no runner-up with one class", "leave --against out")
        return logits.scatter(1, y[:, None], -torch.inf).argmax(dim=1, keepdim=True)
    contrasts = _indices(classifier, against, logits)
    contrasts = contrasts.reshape(1, -1).expand(len(y), -1) if contrasts.ndim < 2 else contrasts
    if len(contrasts) != len(y) or contrasts.shape[1] == 0:
        raise UsageError(f"rival classes {tuple(contrasts.shape)} for {len(y)} images", "give (A,) or (B, A) classes")
    if bool((contrasts == y[:, None]).any()):
        raise UsageError("a class cannot be explained against itself", "leave the target out of --against")
    if any(len(set(row)) < len(row) for row in contrasts.tolist()):
        raise UsageError("a rival class is given twice", "give each class once")
    return contrasts


def _indices(classifier: Classifier, given: Classes, logits: Tensor) -> Tensor:
    """Class indices, checked against the number of classes."""
    if isinstance(given, str):
        given = [classifier.class_names.find(given)]
    elif isinstance(given, Sequence):
        given = [classifier.class_names.find(each) if isinstance(each, str) else each for each in given]
    try:
        indices = torch.as_tensor(given, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"cannot read the classes {given!r}", "give indices, wnids or names") from None
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise UsageError(f"class indices of type {indices.dtype}", "give whole numbers")
    classes = logits.shape[1]
    if bool(((indices < 0) | (indices >= classes)).any()):
        wrong = next(int(each) for each in indices.flatten() if not 0 <= int(each) < classes)
        raise UsageError(f"class index {wrong} is not in 0 .. {classes - 1}", "see xplain list classes")
    return indices.long()


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
    """What a command asks of each image: which classes are explained, and against which.

    kind: ``auto`` the top class, ``label`` the class that the image's folder is named after, ``top`` the ``count`` best
    classes, ``class`` the class ``index``. against: class indices, ``runner-up``, or None.
    """

    kind: Literal["auto", "label", "top", "class"]
    count: int = 1
    index: int = 0
    against: str | tuple[int, ...] | None = None

    @classmethod
    def parse(cls, target: str, against: str | None, classifier: Classifier) -> TargetSpec:
        """Read ``--target`` and ``--against``. Raises UsageError for what is no class of the classifier."""
        contrasts = None if against is None else _parse_contrasts(against, classifier)
        if target == "auto":
            return cls("auto", against=contrasts)
        if target == "label":
            return cls("label", against=contrasts)
        if target.startswith("top:"):
            number = parse_count(target.removeprefix("top:"))
            if not number:
                raise UsageError(f"cannot read the target {target!r}", "write top:K with K from 1")
            return cls("top", count=number, against=contrasts)
        return cls("class", index=classifier.class_names.find(target), against=contrasts)

    def suffix(self, index: int) -> str:
        """The part of a file's name that says which class was asked for."""
        return "" if self.kind == "auto" else str(index)

    def targets(self, logits: Tensor, labels: Sequence[int | None]) -> list[Tensor]:
        """(B,) target classes for each class asked about; labels: the images' own, -1 where they have none."""
        if self.kind == "top":
            return list(logits.topk(min(self.count, logits.shape[1]), dim=1).indices.unbind(dim=1))
        if self.kind == "label":
            own = [-1 if label is None else label for label in labels]
            return [torch.tensor(own, dtype=torch.long, device=logits.device)]
        if self.kind == "auto":
            return [logits.argmax(dim=1)]
        if not 0 <= self.index < logits.shape[1]:
            raise UsageError(
                f"class index {self.index} is not in 0 .. {logits.shape[1] - 1}", "see xplain list classes"
            )
        return [torch.full((len(logits),), self.index, device=logits.device)]

    def contrasts(self, classifier: Classifier, logits: Tensor, y: Tensor) -> Tensor | None:
        """(B, A) rival classes, or None."""
        against = list(self.against) if isinstance(self.against, tuple) else self.against
        return find_contrasts(classifier, against, logits, y)


def _parse_contrasts(text: str, classifier: Classifier) -> str | tuple[int, ...]:
    if text == RUNNER_UP:
        return text
    if text in classifier.labels:  # a name with a comma in it
        return (classifier.class_names.find(text),)
    return tuple(classifier.class_names.find(part.strip()) for part in text.split(",") if part.strip())
