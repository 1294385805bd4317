"""The accuracy of a model whose images can have several labels: mean average precision, exact matches and top labels."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplain.core.array_store import Floats


def average_precision(is_positive: NDArray[np.bool_], scores: Floats) -> float:
    """Return the average precision of a ranking, Σ_n (R_n - R_{n-1}) P_n over the distinct scores from the highest to the lowest.

    is_positive, scores: (N,). P_n, R_n: precision and recall of the images with at least the n-th score. Returns NaN without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    positives = np.cumsum(is_positive[order])
    is_last = np.append(np.diff(scores[order]) != 0, True)  # of images with equal scores
    found, ranked = positives[is_last], np.flatnonzero(is_last) + 1
    if not found[-1]:
        return float("nan")
    recall = found / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * found / ranked))


@dataclass
class LabelAccuracy:
    """The predictions on images with label sets, each image once.

    images: their names. labels: the labels of each image. logits: (images * classes,), one image after the other.
    exact: number of images whose labels are those that the model finds. top: number of images with a label whose top class is one.
    """

    images: dict[str, int] = field(default_factory=dict)
    labels: list[tuple[int, ...]] = field(default_factory=list)
    logits: array[float] = field(default_factory=lambda: array("d"))
    exact: int = 0
    top: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of an item, unless its image has been added."""
        image = record["image"]
        if image in self.images:
            return
        self.images[image] = len(self.images)
        labels = set(record["labels"])
        self.labels.append(tuple(labels))
        self.logits.extend(record["logits"])
        if len(self.logits) % len(self.images):
            raise ValueError("the logits have a different length than in other records")
        self.exact += labels == set(record["decided"])
        self.top += record["predicted"] in labels

    def summarize(self) -> dict[str, float | None]:
        """Return ``top1``, ``exact`` and ``mean_average_precision``; None without images or without labels."""
        with_labels = sum(bool(labels) for labels in self.labels)
        return {
            "top1": self.top / with_labels if with_labels else None,
            "exact": self.exact / len(self.images) if self.images else None,
            "mean_average_precision": self._mean_average_precision(),
        }

    def _mean_average_precision(self) -> float | None:
        """Return the mean over the labels that an image has."""
        if not any(self.labels):
            return None
        logits = np.frombuffer(self.logits).reshape(len(self.images), -1)
        is_positive = np.zeros(logits.shape, dtype=bool)
        for row, labels in enumerate(self.labels):
            is_positive[row, list(labels)] = True
        present = np.flatnonzero(is_positive.any(axis=0))
        return float(np.mean([average_precision(is_positive[:, label], logits[:, label]) for label in present]))


def describe_accuracy(summary: Mapping[str, Any]) -> list[str]:
    """Return short texts about the accuracy of the model; [] if the images have no labels."""
    if "mean_average_precision" not in summary:
        return [] if summary["top1"] is None else [f"top-1 accuracy {summary['top1']:.3f}"]
    texts = (
        ("mean_average_precision", "mean average precision"),
        ("exact", "exact match of the labels"),
        ("top1", "top label correct"),
    )
    return [f"{name} {summary[key]:.3f}" for key, name in texts if summary[key] is not None]
