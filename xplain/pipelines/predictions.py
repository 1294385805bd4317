"""The prediction of one image as records hold it: classes with their probabilities, or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from xplain.data.datasets import Item
from xplain.models import Classifier
from xplain.models.outputs import OutputKind

TOP = 5  # classes in a record


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one image. logits: (classes,)."""

    classifier: Classifier
    logits: Tensor

    @property
    def output(self) -> OutputKind:
        """The meaning of the logits."""
        return self.classifier.output

    @cached_property
    def probabilities(self) -> Tensor:
        """The probabilities (classes,) in float64, or the values."""
        return self.output.probabilities(self.logits.double())

    def describe_class(self, index: int) -> dict[str, Any]:
        """Return a class with its wnid, name and probability. An output without probabilities has a value instead."""
        names, number = self.classifier.class_names.describe(index), float(self.probabilities[index])
        if self.output.has_probabilities:
            return names | {"probability": number}
        return names | {"probability": None, "value": number}

    def describe_top(self) -> list[dict[str, Any]]:
        """Return the best classes, at most ``TOP``, best first."""
        return [self.describe_class(index) for index in self._rank()]

    def describe_decisions(self) -> dict[str, Any]:
        """Return the names of the labels that the model finds in the image under ``decided``, or {} if it decides for one class.

        A class without a name has its index.
        """
        if self.output.activation in ("softmax", "binary") or not self.output.has_decisions:
            return {}
        labels = self.classifier.labels
        return {"decided": [labels[index] if index < len(labels) else index for index in self.decided]}

    @property
    def decided(self) -> list[int]:
        """The classes for which the model decides."""
        decisions = self.output.decisions(self.logits)
        return [int(index) for index in decisions.nonzero()[:, 0]]

    @cached_property
    def top_class(self) -> int:
        """The top class."""
        return self._rank()[0]

    def _rank(self) -> list[int]:
        if self.output.activation == "softmax":  # as earlier versions, which ranked probabilities
            return [int(index) for index in self.probabilities.topk(min(TOP, len(self.logits))).indices]
        return [int(index) for index in self.output.rank_classes(self.logits, TOP)]


def describe_items(classifier: Classifier, items: Sequence[Item], logits: Tensor) -> list[dict[str, Any]]:
    """Return what a run stores of the predictions of items: the top class and its probability, or value.

    Also the labels and the decided classes if an image can have several, and all logits, from which the mean average precision is
    computed. logits: (B, classes).
    """
    if classifier.output.activation == "softmax":  # as earlier versions, which took the largest probability
        probabilities, predicted = logits.double().softmax(dim=1).max(dim=1)
        pairs = zip(predicted.tolist(), probabilities.tolist(), strict=True)
        return [{"predicted": index, "probability": probability} for index, probability in pairs]
    return [_describe_item(classifier, item, row) for item, row in zip(items, logits.cpu(), strict=True)]


def _describe_item(classifier: Classifier, item: Item, logits: Tensor) -> dict[str, Any]:
    """Return the record of one item. logits: (classes,)."""
    prediction = Prediction(classifier, logits)
    top = prediction.describe_class(prediction.top_class)
    record: dict[str, Any] = {"predicted": prediction.top_class}
    record |= {key: top[key] for key in ("probability", "value") if key in top}
    if classifier.output.activation != "sigmoid" or item.labels is None:
        return record
    return record | {
        "image": item.image_key,
        "labels": list(item.labels),
        "decided": prediction.decided,
        "logits": logits.double().tolist(),
    }
