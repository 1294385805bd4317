"""Choose the activation of the outputs from what the user or the module states and from the end of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args

import torch

from xplain.core.errors import InputError, UsageError, XplainError, did_you_mean
from xplain.core.types import ActivationName
from xplain.models.final_activation import Function
from xplain.models.outputs import Activation, OutputKind, Source

IMAGENET_CLASSES = 1000
ONE_OUTPUT_NOTE = "the model has one output, which is used as the logit of class 1 against class 0; set --activation none if it is a value"
EXCLUSIVE_NOTE = (
    "the outputs are used as logits of exclusive classes; confirm it by --activation softmax, or set --activation sigmoid if several "
    "labels can apply to an image"
)
ONE_LABEL_NOTE = "config.num_labels is 1, so the output is explained as a value; set --activation sigmoid if it is the logit of a class"


@dataclass(frozen=True)
class OutputRequest:
    """What the user, attributes of the module or its configuration state about the outputs.

    activation: softmax, sigmoid or none; None to detect it. source: who states it.
    entry: name or index of the logits in the output, or None.
    threshold: the probability, or value, from which a label counts as present. threshold_source: who states it.
    has_one_label: the configuration has one label and no problem type, which means a value.
    known_kind: the meaning of the outputs of a network that a library loaded; None for any other module.
    is_library_class: the class of the module is one of torchvision or timm; its head may still be the user's own.
    """

    activation: Literal["softmax", "sigmoid", "none"] | None = None
    source: Source = "default"
    entry: str | None = None
    threshold: float | tuple[float, ...] | None = None
    threshold_source: Source = "default"
    has_one_label: bool = False
    known_kind: OutputKind | None = None
    is_library_class: bool = False


@dataclass(frozen=True)
class EndOfNetwork:
    """The activation function at the end of a network, or None. source: ``graph`` if it was seen, ``values`` if the output suggests it."""

    function: Function | None = None
    source: Literal["graph", "values"] = "graph"

    @property
    def activation(self) -> Activation | None:
        """The activation of the outputs."""
        if self.function is None:
            return None
        return "softmax" if self.function in ("softmax", "log_softmax") else "sigmoid"


def is_activation(value: object) -> TypeGuard[Literal["softmax", "sigmoid", "none"]]:
    """Return whether a value is the name of an activation that a user can choose."""
    return isinstance(value, str) and value in ("softmax", "sigmoid", "none")


def parse_activation(value: object) -> Literal["softmax", "sigmoid", "none"] | None:
    """Return the activation that an option names, or None for ``auto``. Raises UsageError for another value."""
    if value == "auto":
        return None
    if is_activation(value):
        return value
    names = get_args(ActivationName)
    raise UsageError(f"unknown activation {value!r}", did_you_mean(str(value), names, f"use {', '.join(names)}"))


def parse_threshold(value: object, error: type[XplainError], name: str) -> float | tuple[float, ...]:
    """Return a threshold, one number or one per label. error, name: of the exception if it is not."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0)
    is_number = not isinstance(value, (bool, str)) and numbers.ndim < 2 and numbers.numel() > 0
    if not is_number or not bool(numbers.isfinite().all()):
        raise error(f"invalid {name} {value!r}", "use one number, or one number per label")
    return float(numbers) if numbers.ndim == 0 else tuple(numbers.tolist())


def choose_activation(request: OutputRequest, end: EndOfNetwork, columns: int) -> tuple[Activation, Source]:
    """Return the activation of a network with ``columns`` outputs, and its source.

    Raises UsageError if an option contradicts the end of the network, and InputError if an attribute of the module does.
    """
    told = request.source in ("user", "attribute")
    if request.activation == "none" and not request.has_one_label:
        return "none", request.source
    if columns == 1 and end.activation == "softmax":
        raise InputError(
            "the model ends in a softmax over one output, which is always 1", "return the logit, or use a sigmoid"
        )
    if told and request.activation is not None:
        _check_agreement(request, end, columns)
        return ("binary" if columns == 1 else request.activation), request.source
    if end.activation is not None:
        return ("binary" if columns == 1 else end.activation), end.source
    if request.activation is not None:
        is_binary = columns == 1 and request.activation != "none"
        return ("binary" if is_binary else request.activation), request.source
    return ("binary" if columns == 1 else "softmax"), "default"


def _check_agreement(request: OutputRequest, end: EndOfNetwork, columns: int) -> None:
    """Raise an error if the requested softmax or sigmoid contradicts the network."""
    error, says = _describe_source(request.source, "activation", request.activation)
    if columns == 1 and request.activation == "softmax":
        raise error(f"the model has one output, and {says}", "use sigmoid or none")
    is_seen = end.source == "graph" or end.activation == "softmax"  # a range of values alone does not prove a sigmoid
    if end.activation not in (None, request.activation) and is_seen:
        remedy = "remove the option" if request.source == "user" else "delete the attribute"
        raise error(f"the model ends in a {end.activation}, but {says}", f"{remedy}, or remove the {end.activation}")


def _describe_source(source: Source, name: str, value: object) -> tuple[type[XplainError], str]:
    """Return the type of error for a value of an option or attribute, and a clause that names it."""
    if source == "user":
        return UsageError, f"--{name} is {value}"
    return InputError, f"its attribute {name!r} is {value!r}"


def check_threshold(request: OutputRequest, activation: Activation, columns: int) -> float | tuple[float, ...] | None:
    """Return the threshold. Raises UsageError, or InputError for an attribute, if it does not fit the outputs."""
    threshold = request.threshold
    if threshold is None:
        return None
    error, _ = _describe_source(request.threshold_source, "threshold", threshold)
    name = "--threshold" if request.threshold_source == "user" else "the model's attribute 'threshold'"
    if activation == "softmax":
        raise error(
            f"{name} requires sigmoid outputs or values; a softmax decides for the largest",
            f"{'remove it' if error is UsageError else 'delete it'}, or set the activation to sigmoid",
        )
    values: Sequence[float] = threshold if isinstance(threshold, tuple) else (threshold,)
    if len(values) not in (1, columns):
        raise error(f"{name} has {len(values)} values for {columns} outputs", "use one number, or one number per label")
    if activation != "none" and not all(0 < value < 1 for value in values):
        raise error(f"{name} is {_show(threshold)}, not a probability", "use a number between 0 and 1")
    return values[0] if len(values) == 1 else threshold


def _show(threshold: Any) -> str:
    return ", ".join(f"{value:g}" for value in (threshold if isinstance(threshold, tuple) else (threshold,)))


def list_assumptions(request: OutputRequest, activation: Activation, source: Source, columns: int) -> list[str]:
    """Return what was assumed about the activation of a network with ``columns`` outputs, as text for the user."""
    if source == "config" and activation == "none" and request.has_one_label:
        return [ONE_LABEL_NOTE]
    if source != "default":
        return []
    if activation == "binary":
        return [ONE_OUTPUT_NOTE]
    is_imagenet = request.is_library_class and columns == IMAGENET_CLASSES
    return [] if request.known_kind is not None or is_imagenet else [EXCLUSIVE_NOTE]
