"""Meaning of the outputs of a model: how logits become probabilities, and for which class the model decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# softmax: exclusive classes. sigmoid: independent labels. binary: two exclusive classes from one logit z, as (-z, z).
# none: values that are not probabilities.
Activation = Literal["softmax", "sigmoid", "binary", "none"]
# What decided the activation: an option, an attribute of the module, its configuration, its graph, its values, or nothing.
Source = Literal["user", "attribute", "config", "graph", "values", "default"]


@dataclass(frozen=True)
class OutputKind:
    """The meaning of the logits (B, classes) of a classifier.

    activation: the function from logits to probabilities.
    source: where the activation comes from.
    is_peeled: the network ends in the activation; the logits are the input of that function.
    threshold: the probability from which a label counts as present, one for all labels or one per label; for ``none``, in units
        of the output. None: 0.5, and no decision for ``none``.
    entry: name or index of the logits in the network's output; empty for the output itself.
    """

    activation: Activation = "softmax"
    source: Source = "default"
    is_peeled: bool = False
    threshold: float | tuple[float, ...] | None = None
    entry: str = ""

    def describe(self) -> dict[str, Any]:
        """Return the entry of records."""
        return {
            "activation": self.activation,
            "source": self.source,
            "peeled": self.is_peeled,
            "threshold": list(self.threshold) if isinstance(self.threshold, tuple) else self.threshold,
            "name": self.entry,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The entries that change numbers and differ from those of a network that returns logits of exclusive classes.

        The name of the output is left out, because the model implies it unless the user chose it.
        """
        plain, entries = OutputKind().describe(), self.describe()
        return {key: entries[key] for key in ("activation", "peeled", "threshold") if entries[key] != plain[key]}

    @property
    def has_probabilities(self) -> bool:
        """Whether logits can be converted to probabilities."""
        return self.activation != "none"

    @property
    def has_decisions(self) -> bool:
        """Whether the model decides for or against a class. Values do so only with a threshold."""
        return self.has_probabilities or self.threshold is not None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (..., classes), or the values themselves if the outputs are not probabilities."""
        match self.activation:
            case "softmax":
                return logits.softmax(dim=-1)
            case "sigmoid" | "binary":
                return logits.sigmoid()
            case "none":
                return logits

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities (..., classes), or the values themselves if the outputs are not probabilities."""
        match self.activation:
            case "softmax":
                return logits.log_softmax(dim=-1)
            case "sigmoid" | "binary":
                return F.logsigmoid(logits)
            case "none":
                return logits

    def top_classes(self, logits: Tensor) -> Tensor:
        """Return the top class (...) of logits (..., classes): the largest, or the decision of a binary model."""
        if self.activation == "binary":
            return self._is_positive(logits[..., 1]).long()
        return logits.argmax(dim=-1)

    def rank_classes(self, logits: Tensor, count: int) -> Tensor:
        """Return the ``count`` best classes (..., count) of logits (..., classes), best first; all if there are fewer.

        A binary model has its decision first.
        """
        if self.activation == "binary":
            top = self.top_classes(logits)
            return torch.stack([top, 1 - top], dim=-1)[..., :count]
        return logits.topk(min(count, logits.shape[-1]), dim=-1).indices

    def decisions(self, logits: Tensor) -> Tensor:
        """Return bool (..., classes): whether the model decides for the class.

        Softmax: for the largest. Sigmoid: for every label whose logit reaches the threshold. Values: for those that reach the
        threshold, which must be set.
        """
        if self.activation in ("softmax", "binary"):
            classes = torch.arange(logits.shape[-1], device=logits.device)
            return self.top_classes(logits)[..., None] == classes
        return logits >= self.logit_thresholds(logits)

    def logit_thresholds(self, logits: Tensor) -> Tensor:
        """Return the thresholds in units of the logits, as a scalar or (classes,) tensor."""
        threshold = 0.5 if self.threshold is None else self.threshold
        values = torch.as_tensor(threshold, dtype=torch.float64, device=logits.device)
        return (values if self.activation == "none" else values.logit()).to(logits.dtype)

    def _is_positive(self, logit: Tensor) -> Tensor:
        """Whether a binary model decides for class 1. A logit of 0 is class 0, as argmax breaks ties."""
        threshold = 0.5 if self.threshold is None else self.threshold
        if isinstance(threshold, tuple):
            (threshold,) = threshold
        if threshold == 0.5:
            return logit > 0
        return logit >= math.log(threshold / (1 - threshold))
