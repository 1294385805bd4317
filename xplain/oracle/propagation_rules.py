"""The rules of a propagation method, and building blocks of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.scores import ContrastScore
from xplain.core.types import ScoreKind
from xplain.models import Classifier
from xplain.oracle.operations import Kind, Operation

Rule = Callable[[Operation], Any]
ANY_MODEL = "use saliency, integrated-gradients or uniform-fullgrad, which support any model"


@dataclass(frozen=True)
class Rules:
    """The rules of a propagation method, one per kind of operation; kinds without a rule are refused.

    alternatives: what to do when an operation is refused, the hint of the error.
    scores: the kinds of score for which the method is defined.
    transform_logits: function applied to the logits (B, classes) before the score is computed.
    is_odd: the relevance of a logit -z is the negative of that of z, wherever the sign is changed.
    rows: whether the rules compare rows: ``single`` if not; along the ``first`` axis only; or along ``any`` axis, that of
    ``Operation.row_axis``.
    """

    method: str
    table: Mapping[Kind, Rule]
    alternatives: str
    scores: frozenset[ScoreKind] = frozenset({"logit", "prob", "log-prob", "margin"})
    transform_logits: Callable[[Tensor], Tensor] = field(default=lambda logits: logits)
    is_odd: bool = True
    rows: Literal["single", "first", "any"] = "single"

    def check_score(self, score: str) -> None:
        """Raise UsageError if the method is not defined for this score."""
        kind = "logit" if ContrastScore.parse(score) is not None else score  # a contrast is a sum of logits
        if kind not in self.scores:
            raise UsageError(
                f"{self.method} is not defined for score={score}", f"use {' or '.join(sorted(self.scores))}"
            )

    def check_targets(self, model: Classifier, y: Tensor) -> None:
        """Raise UsageError if the method cannot explain class 0 of a model with one output.

        Its logit is the negative output. Rules that treat positive and negative contributions differently need the sign inside the
        last linear layer.
        """
        reader = model.reader
        if reader.is_binary and not reader.two_class_layer and not self.is_odd and bool((y == 0).any()):
            raise UsageError(
                f"{self.method} with these rules cannot explain class 0, because the model's output is not that of a linear layer",
                "explain class 1, or use lrp with rule=epsilon",
            )

    def apply(self, operation: Operation) -> Any:
        """Return the output of an operation under its rule. Raises UsageError if there is no rule."""
        if operation.kind is None or operation.kind not in self.table:
            where = f"{operation.name} in {describe_module(operation.module)}"
            hint = self.alternatives if operation.kind else ANY_MODEL
            raise UsageError(f"{self.method} has no rule for {where}", hint)
        return self.table[operation.kind](operation)


def describe_module(name: str) -> str:
    """Return the name of a module for messages."""
    return "the model" if name in ("", "model") else name


def keep_gradient(*kinds: Kind) -> dict[Kind, Rule]:
    """Return a rule table in which the given kinds of operations keep their gradient."""
    return dict.fromkeys(kinds, Operation.run)


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``surrogate``, a tensor of the same shape."""
    return _ReplaceGradient.apply(value.detach(), surrogate)


class _ReplaceGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def derivative(operation: Operation, at: Tensor) -> Tensor:
    """Return the derivative of an elementwise operation at each entry of ``at``."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        (values,) = torch.autograd.grad(operation.run(at).sum(), at)
    return values
