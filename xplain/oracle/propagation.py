"""Propagate through a model: a forward pass in which each operation follows its rule in the backward pass.

A torch function mode intercepts each operation that depends on the image, whether a module, a function or an operator
calls it. For each kind of operation, a method replaces it by an expression with the same value, whose gradient is the
method's rule. Operations without a rule are refused, and so are operands that depend on the image but have no gradient, such as
masks and detached gates, except for the masks of a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xplain.core.errors import UsageError, device_error, first_line
from xplain.models import Classifier
from xplain.oracle.axis_maxima import as_max_pooling, complete_output
from xplain.oracle.dependence import ImageDependence
from xplain.oracle.operations import (
    PYTHON_VALUES,
    SHAPE_ARGUMENTS,
    Operation,
    classify,
    find_tensors,
    is_in_place,
    make_out_of_place,
)
from xplain.oracle.propagation_rules import ANY_MODEL, Rules, describe_module, keep_gradient
from xplain.oracle.rectifiers import as_rectifier, record_mask
from xplain.oracle.row_axis import find_row_axis, follow_row_axis
from xplain.oracle.same_logits import has_same_logits, refuse_if_random
from xplain.oracle.scores import compute_scores
from xplain.oracle.written_out import WRITTEN_OUT

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

TRACKED = "_xplain_tracked"  # attribute of the tensors that were computed from the image under the rules


class PropagationResult(NamedTuple):
    """Scores (B,), gradients (B, S, C, H, W) for the images and each stream, and the totals that the rules added up."""

    scores: Tensor
    gradients: Tensor
    sums: dict[str, Tensor]


def propagate(oracle: Oracle, x: Tensor, y: Tensor, rules: Rules, *streams: Tensor) -> PropagationResult:
    """Return the gradient of the score when each operation of the model follows its rule.

    x: (B, C, H, W) images. y: (B,) target classes.
    streams: (B, C, H, W) images that go through the model together with x, such as baselines.
    Raises UsageError if an operation or the score has no rule, or if the logits differ from the model's own.
    """
    rules.check_score(oracle.score)
    if streams:
        oracle.classifier.checks.require_independent_rows(rules.method)
    model = oracle.inference_copy(fold=oracle.fold, access="gradients")
    rules.check_targets(model, y)
    names: list[str] = []

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None, *streams: Tensor) -> tuple[Tensor, ...]:
        nonlocal names
        rows = torch.cat([x, *streams]).detach().requires_grad_()
        logits, sums = _forward_by_rules(oracle, model, rules, rows, 1 + len(streams))
        with torch.no_grad():
            expected = oracle.forward(model, x[:1])
        if not has_same_logits(logits[:1], expected, loose=oracle.precision != "fp32"):
            refuse_if_random(oracle, model, x[:1], expected, rules.method)
            message = (
                f"{rules.method} does not support the model: the logits under its rules differ from the model's logits"
            )
            raise UsageError(message, ANY_MODEL)
        with torch.enable_grad():
            scores = compute_scores(rules.transform_logits(logits[: len(x)]), y, oracle.score, contrasts, oracle.output)
            (gradient,) = torch.autograd.grad(scores.sum(), rows)
        oracle.count_rows(forwards=len(logits), backwards=len(logits), checks=1)
        oracle.count_image_rows(len(logits), None, backwards=1)
        names = list(sums)
        return scores.detach(), gradient.unflatten(0, (-1, len(x))).transpose(0, 1), *sums.values()

    scores, gradients, *sums = oracle.run_in_batches(run, x, y, oracle.against, *streams, kind="propagation")
    return PropagationResult(scores, gradients, dict(zip(names, sums, strict=True)))


def _forward_by_rules(
    oracle: Oracle, model: Classifier, rules: Rules, rows: Tensor, streams: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits of the rows under the rules, and the totals, which the backward pass may still change."""
    with torch.enable_grad(), _apply_rules(model, rules, rows, streams) as mode:
        try:
            logits = oracle.forward(model, rows)
        except RuntimeError as error:
            if streams == 1 or device_error(error):
                raise
            _check_operations(oracle, model, rules, rows)
            # the rule of the first layer may merge the streams
            if rules.rows == "single" and _accepts(oracle, model, rows):
                message = (
                    f"{rules.method} has no definition for what the model adds to the output of its first layer for each image, such as "
                    "a class token, because image, black and white share the rule of that layer"
                )
                raise UsageError(message, rules.alternatives) from None
            message = f"{rules.method} does not support the model's forward pass: {first_line(error)}"
            raise UsageError(message, ANY_MODEL) from None
        mode.check_tracked(logits)
    return logits, mode.sums


def _accepts(oracle: Oracle, model: Classifier, rows: Tensor) -> bool:
    """Return whether the model runs without rules."""
    try:
        with torch.no_grad():
            oracle.forward(model, rows)
    except RuntimeError:
        return False
    return True


def _check_operations(oracle: Oracle, model: Classifier, rules: Rules, rows: Tensor) -> None:
    """Raise UsageError if an operation of the model has no rule."""
    keep_all = replace(rules, table=keep_gradient(*rules.table))
    _forward_by_rules(oracle, model, keep_all, rows[:1].detach().requires_grad_(), 1)


class _RuleMode(TorchFunctionMode):
    """Apply the rules to each operation that depends on the image."""

    def __init__(self, rules: Rules, rows: int, streams: int, dependence: ImageDependence) -> None:
        super().__init__()
        self.rules = rules
        self.parts = 1
        if rules.rows != "single":
            self.parts = streams if streams > 1 else rows
        self.rows = rows
        self.dependence = dependence
        self.modules: list[str] = [""]  # names of the running modules, outermost first
        self.sums: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(find_tensors((args, kwargs)))
        inputs = [tensor for tensor in tensors if tensor.requires_grad]
        if not inputs or not torch.is_grad_enabled():
            return self.run_without_gradient(func, args, kwargs)
        constants = [tensor for tensor in tensors if not tensor.requires_grad]
        written_out = WRITTEN_OUT.get(getattr(func, "__name__", ""))
        if written_out is not None:
            with self:
                output = written_out(*args, **kwargs)
            if output is not NotImplemented:
                return output
        name, function, new_kwargs = make_out_of_place(func, kwargs)
        operation = Operation(
            name, None, self.modules[-1], function, args, new_kwargs, inputs, constants, self.rows, self.sums
        )
        operation.kind = classify(operation)
        operation = as_max_pooling(operation)
        if operation.kind is None and not is_in_place(func):
            output = self.run_without_gradient(func, args, new_kwargs)
            if not any(tensor.requires_grad for tensor in find_tensors(output)):
                return output  # a shape, a comparison or a constant
        for tensor in inputs:
            self.check_tracked(tensor)
        operation = self.resolve_masks(operation)
        operation.row_axis = self.find_row_axis(operation)
        output = self.rules.apply(operation)
        if self.parts > 1 and not follow_row_axis(operation, output, self.parts):
            raise self.row_error(operation)
        output = complete_output(name, operation, output)
        for tensor in find_tensors(output):
            vars(tensor)[TRACKED] = True
        return output

    def run_without_gradient(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation without a rule. Raises UsageError if it turns a tensor that depends on the image into Python values."""
        name = getattr(func, "__name__", "")
        dependent = [tensor for tensor in find_tensors((args, kwargs)) if self.dependence.includes(tensor)]
        if dependent and name in PYTHON_VALUES:
            message = f"{self.rules.method} cannot follow {name} of a tensor that depends on the image, in {self.where}"
            raise UsageError(message, ANY_MODEL)
        output = func(*args, **kwargs)
        record_mask(name, args, kwargs, dependent, output)
        return output

    def resolve_masks(self, operation: Operation) -> Operation:
        """Return the operation, or the ReLU that it computes with a mask.

        Raises UsageError for all other operands that depend on the image but have no gradient.
        """
        hidden = []
        if operation.name not in SHAPE_ARGUMENTS:
            hidden = [tensor for tensor in operation.constants if self.dependence.includes(tensor)]
        rectifier = as_rectifier(operation, hidden)
        if rectifier is None and hidden:
            raise UsageError(
                f"{self.rules.method} has no rule for {operation.name} in {self.where} with a mask or a detached value that "
                "depends on the image",
                f"use torch.relu if the mask is a ReLU, otherwise {ANY_MODEL}",
            )
        return rectifier or operation

    def find_row_axis(self, operation: Operation) -> int:
        """Return the axis of the rows in the inputs. Raises UsageError if rules that compare rows cannot find them."""
        if self.parts == 1:
            return 0
        axis = find_row_axis(operation.inputs)
        if axis is None or (axis > 0 and operation.kind != "route" and self.rules.rows == "first"):
            raise self.row_error(operation)
        return axis

    def row_error(self, operation: Operation) -> UsageError:
        """Return the error about rows that do not lie along one known axis."""
        message = (
            f"{self.rules.method} cannot find the images of a call among the axes of {operation.name} in {self.where}"
        )
        return UsageError(message, ANY_MODEL)

    @property
    def where(self) -> str:
        """The name of the running module, for messages."""
        return describe_module(self.modules[-1])

    def check_tracked(self, tensor: Tensor) -> None:
        """Raise UsageError if the tensor was computed from the image by an operation that the mode did not intercept."""
        if TRACKED not in vars(tensor):
            message = f"{self.rules.method} cannot trace compiled or custom operations in {self.where}"
            raise UsageError(message, ANY_MODEL)


@contextmanager
def _apply_rules(model: nn.Module, rules: Rules, rows: Tensor, streams: int) -> Iterator[_RuleMode]:
    """Apply the rules to the forward passes of ``model`` on ``rows``, a leaf tensor that requires a gradient.

    streams: the number of equal parts of the rows.
    """
    dependence = ImageDependence(rows)
    mode = _RuleMode(rules, len(rows), streams, dependence)
    vars(rows)[TRACKED] = True

    def push(name: str) -> Callable[..., None]:
        return lambda *_: mode.modules.append(name)

    def pop(*_: object) -> None:
        mode.modules.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; check_tracked refuses its output
            stack.callback(module.register_forward_pre_hook(push(name.removeprefix("model."))).remove)
            stack.callback(module.register_forward_hook(pop).remove)
        with dependence, mode:
            yield mode
