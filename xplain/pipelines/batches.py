"""Prediction loop shared by explain, evaluate and compare: prefetch images, predict each batch once and drop unusable images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from xplain.core.config import EvaluateConfig
from xplain.core.errors import Failure, InputError, UsageError
from xplain.core.options import ComputeOptions
from xplain.core.types import Cost
from xplain.data.class_names import ClassNames
from xplain.data.datasets import Item, read_dataset
from xplain.data.folders import SkippedFiles
from xplain.data.loading import LoadedImage
from xplain.data.prefetch import prefetch_images
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.models.devices import upload
from xplain.oracle.runtime import predict
from xplain.oracle.shared_forward import SharedForward
from xplain.oracle.targets import TargetSpec, has_finite_logits


class RunsInCalls(Protocol):
    """A method, or what is evaluated in place of one."""

    def images_per_call(self, classifier: Classifier, batch_size: int | None) -> int:
        """Return how many images fill one model call."""


class Predicts(Protocol):
    """A method that can share the forward pass of the prediction."""

    def predict(
        self, classifier: Classifier, images: Tensor, compute: ComputeOptions
    ) -> tuple[Tensor, Cost, SharedForward | None]:
        """Return the logits (B, classes) of images, their cost, and the forward pass if the method can share it."""


@dataclass(frozen=True, eq=False)
class PredictedBatch:
    """A batch of images (B, C, H, W) on the classifier's device, with finite logits (B, classes).

    shared: the forward pass of the prediction, for the first method that runs on the images; None if it was not kept.
    """

    items: Sequence[Item]
    loaded: Sequence[LoadedImage]
    images: Tensor
    logits: Tensor
    shared: SharedForward | None = field(default=None, kw_only=True)

    @property
    def labels(self) -> list[int | None]:
        """True class of each image, or None if unknown."""
        return [item.label for item in self.items]

    @cached_property
    def cpu_images(self) -> Tensor:
        """The images (B, C, H, W) on the CPU, as they were read."""
        if self.images.device.type == "cpu":
            return self.images
        return torch.stack([loaded.pixels for loaded in self.loaded]).to(self.images.dtype)

    @cached_property
    def cpu_logits(self) -> Tensor:
        """The logits (B, classes) on the CPU."""
        return self.logits.cpu()

    def for_targets(self, target_spec: TargetSpec, classifier: Classifier) -> Iterator[TargetedBatch]:
        """Yield the batch once per requested target, with the target and contrast classes of each image."""
        for targets in target_spec.targets(self.logits, self.labels):
            contrasts = target_spec.contrasts(classifier, self.logits, targets)
            yield TargetedBatch(
                self.items, self.loaded, self.images, self.logits, targets, contrasts, shared=self.shared
            )


@dataclass(frozen=True, eq=False)
class TargetedBatch(PredictedBatch):
    """A predicted batch with target classes (B,) and contrast classes (B, A) or None."""

    targets: Tensor
    contrasts: Tensor | None

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def classes(self) -> list[int]:
        """The target class of each image."""
        return self.targets.tolist()

    def select(self, index: Sequence[int]) -> TargetedBatch:
        """Return the images at the given indices."""
        index = list(index)
        if index == list(range(len(self))):
            return self
        return TargetedBatch(
            [self.items[i] for i in index],
            [self.loaded[i] for i in index],
            self.images[index],
            self.logits[index],
            self.targets[index],
            None if self.contrasts is None else self.contrasts[index],
        )

    def parts(
        self, method: RunsInCalls, classifier: Classifier, compute: ComputeOptions, index: Sequence[int] | None = None
    ) -> Iterator[TargetedBatch]:
        """Yield the images in order, in batches that fill a forward pass of the method.

        index: indices of the images to use, or None for all.
        """
        index = range(len(self)) if index is None else index
        size = method.images_per_call(classifier, compute.batch_size)
        for start in range(0, len(index), size):
            yield self.select(index[start : start + size])

    def contrasts_of(self, i: int) -> list[int]:
        """Return the contrast classes of one image."""
        return [] if self.contrasts is None else self.contrasts[i].tolist()


def read_items(config: EvaluateConfig, classifier: Classifier, skipped: SkippedFiles | None = None) -> list[Item]:
    """Return the images of the data set of a request, with the labels that the model can have.

    skipped: as in ``read_dataset``. Raises UsageError if the model returns values and the request has labels.
    """
    output = classifier.output
    if not output.has_probabilities:
        if config.labels is not None:
            raise UsageError("--labels requires classes, but the model returns values", "remove --labels")
        items = read_dataset(config.dataset, classifier.class_names, skipped=skipped, has_classes=False)
        return [replace(item, label=None) for item in items]
    has_label_sets = output.activation == "sigmoid"
    items = read_dataset(config.dataset, classifier.class_names, config.labels, skipped, has_label_sets=has_label_sets)
    if not has_label_sets:
        return items
    return [
        replace(item, labels=(item.label,)) if item.labels is None and item.label is not None else item
        for item in items
    ]


def make_items(
    sources: Iterable[ImageSource], class_names: ClassNames, *, needs_labels: bool
) -> tuple[list[Item], list[Failure]]:
    """Create dataset items from image files. If ``needs_labels`` is true, images without a label become failures.

    The label of an image is the class that its folder is named after.
    """
    items, failures = [], []
    for source in sources:
        label = None
        if needs_labels:
            try:
                label = class_names.find_folder(source.folder)
            except UsageError as error:
                reason, _, hint = str(error).partition("; ")
                if not hint.startswith("did you mean"):
                    hint = "move it to a folder named after its class"
                failures.append(Failure(source.name, InputError(f"{source.name!r} has no label: {reason}", hint)))
                continue
        items.append(Item(source.name, source, label))
    return items, failures


def largest_group(methods: Iterable[RunsInCalls], classifier: Classifier, compute: ComputeOptions) -> int:
    """Return the number of images to read at a time: the maximum number of images per batch over the methods."""
    return max(method.images_per_call(classifier, compute.batch_size) for method in methods)


def predict_batches(
    classifier: Classifier,
    items: Sequence[Item],
    compute: ComputeOptions,
    *,
    size: int,
    needs_labels: bool,
    first: Predicts | None = None,
) -> Iterator[tuple[list[Failure], PredictedBatch | None]]:
    """Prefetch images in batches of ``size`` and predict each batch once.

    first: the first method that runs on every batch, with which the prediction shares its forward pass if it can.

    Yield, for each batch, the failures and a batch of the remaining images, or None if no image remains. An image fails if it cannot be
    read, if its logits are not finite, or if ``needs_labels`` is true and it has no label.
    """
    start = 0
    for group in prefetch_images((item.source for item in items), classifier.preprocessing, size):
        members = items[start : start + len(group)]
        start += len(group)
        failures, read = [], []
        for item, result in zip(members, group, strict=True):
            if isinstance(result, Failure):
                failures.append(Failure(item.key, result.error))
            else:
                read.append((item, result))
        refused: list[Failure] = []
        batch = None
        if read:
            refused, batch = _predict_group(classifier, read, compute, needs_labels=needs_labels, first=first)
        yield failures + refused, batch


def _predict_group(
    classifier: Classifier,
    read: Sequence[tuple[Item, LoadedImage]],
    compute: ComputeOptions,
    *,
    needs_labels: bool,
    first: Predicts | None,
) -> tuple[list[Failure], PredictedBatch | None]:
    """Predict images and drop those with non-finite logits or a missing required label."""
    images = upload(torch.stack([loaded.pixels for _, loaded in read]), classifier.device, classifier.dtype)
    shared = None
    if first is not None:
        logits, _, shared = first.predict(classifier, images, compute)
    else:
        logits, _ = predict(classifier, images, compute)
    failures, usable = [], []
    for i, finite in enumerate(has_finite_logits(logits).tolist()):
        item = read[i][0]
        if not finite:
            error = InputError(
                f"the logits of {item.key!r} contain NaN or infinity", "check the weights or use --precision fp32"
            )
            failures.append(Failure(item.key, error))
        elif needs_labels and item.label is None:
            error = InputError(f"{item.key!r} has no label", "add a label or remove the image")
            failures.append(Failure(item.key, error))
        else:
            usable.append(i)
    if not usable:
        return failures, None
    items = [read[i][0] for i in usable]
    loaded = [read[i][1] for i in usable]
    if len(usable) < len(read):
        images, logits, shared = images[usable], logits[usable], None
    return failures, PredictedBatch(items, loaded, images, logits, shared=shared)
