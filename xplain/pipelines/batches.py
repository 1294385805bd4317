"""Which of the images that were read can be explained, and what the model says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xplain.core.errors import Failure, InputError, UsageError
from xplain.data.images import LoadedImage
from xplain.models import Classifier
from xplain.oracle.runtime import Runtime, predict
from xplain.oracle.targets import check_logits


@dataclass(frozen=True, eq=False)
class Asked:
    """Images with finite logits: images (B, 3, H, W), logits (B, classes), labels: true classes where they were asked for."""

    loaded: Sequence[LoadedImage]
    images: Tensor
    logits: Tensor
    labels: Sequence[int | None]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are explained together: images (B, C, H, W), logits (B, classes), y (B,), rivals (B, A) or None."""

    loaded: Sequence[LoadedImage]
    images: Tensor
    logits: Tensor
    y: Tensor
    contrasts: Tensor | None

    def pick(self, some: list[int]) -> Batch:
        """Some of the images."""
        contrasts = None if self.contrasts is None else self.contrasts[some]
        return Batch([self.loaded[i] for i in some], self.images[some], self.logits[some], self.y[some], contrasts)

    def parts(self, size: int) -> Iterator[Batch]:
        """The images in order, ``size`` at a time."""
        every = list(range(len(self.loaded)))
        for start in every[::size]:
            yield self.pick(every[start : start + size])


def look_at(
    classifier: Classifier, loaded: Sequence[LoadedImage], runtime: Runtime
) -> tuple[Tensor, Tensor, list[bool]]:
    """Images (B, 3, H, W) on the classifier's device, their logits (B, classes), and of which images all are finite."""
    images = torch.stack([each.pixels for each in loaded]).to(classifier.device, classifier.dtype)
    logits, _ = predict(classifier, images, runtime)
    return images, logits, check_logits(logits).tolist()


def not_finite(name: str) -> Failure:
    """What is said of an image whose logits are not finite."""
    return Failure(
        name, InputError(f"the model's logits for {name!r} are not finite", "check the weights and --precision")
    )


def ask(
    classifier: Classifier, loaded: Sequence[LoadedImage], with_labels: bool, runtime: Runtime
) -> tuple[Asked, list[Failure]]:
    """Predict once; the images that can be used, and why the others cannot. with_labels: each must have a true class."""
    images, logits, finite = look_at(classifier, loaded, runtime)
    usable, labels, failed = [], list[int | None](), []
    for i, each in enumerate(loaded):
        label = find_label(classifier, each) if with_labels else None
        if not finite[i]:
            failed.append(not_finite(each.source.name))
        elif isinstance(label, Failure):
            failed.append(label)
        else:
            usable.append(i)
            labels.append(label)
    return Asked([loaded[i] for i in usable], images[usable], logits[usable], labels), failed


def find_label(classifier: Classifier, each: LoadedImage) -> int | Failure:
    """The class that the image's folder is named after: a wnid, a class name or an index."""
    name = each.source.name
    try:
        return classifier.class_names.find_folder(each.source.folder)
    except UsageError as error:
        return Failure(name, InputError(f"{name!r} has no label: {error}", "put it into a class folder"))
