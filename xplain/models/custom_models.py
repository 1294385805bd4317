"""User-defined models: call a ``python:`` factory, and wrap an nn.Module as a classifier."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.data.preprocessing import Preprocessing
from xplain.models.checkpoints import describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.output_request import OutputRequest, is_activation, parse_threshold
from xplain.models.randomization import RANDOM

LIBRARIES = ("torchvision", "timm")
# Activations by the ``problem_type`` in the configuration of Hugging Face models.
PROBLEM_TYPES: dict[str, Literal["softmax", "sigmoid", "none"]] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}


def load_factory(name: str) -> nn.Module:
    """Return the module that the factory ``python:package.module:factory`` returns. The current directory is importable.

    Raises UsageError if there is no such module or function, and InputError if the function returns something else.
    """
    module_name, colon, factory_name = name.removeprefix("python:").partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), factory_name)):
        raise UsageError(f"invalid model name {name!r}", "use python:package.module:factory")
    module = _import_module(module_name, name)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        functions = [attribute for attribute in dir(module) if callable(getattr(module, attribute))]
        hint = did_you_mean(factory_name, functions, "use a function that returns an nn.Module")
        raise UsageError(f"module {module_name!r} has no function {factory_name!r}", hint)
    model = factory()
    if not isinstance(model, nn.Module):
        raise InputError(f"{name!r} returned {type(model).__name__}, not an nn.Module", "return the module itself")
    return model


def _import_module(module_name: str, name: str) -> ModuleType:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # an import inside the user's module failed
        raise UsageError(
            f"module {module_name!r} of model {name!r} not found", "install it or run the command in its directory"
        ) from None


def wrap_module(model: nn.Module, name: str, path: Path | None) -> Classifier:
    """Return a user's module as a classifier, with the weights in ``path`` if it is not None.

    Attributes ``mean``, ``std``, ``size``, ``labels`` and ``wnids`` of the module are used if it has them.
    Raises InputError if the weights do not fit or an attribute is of the wrong type, and UsageError if ``path`` is RANDOM.
    """
    if path == RANDOM:
        raise UsageError(
            f"{name!r} does not support --weights random",
            "use --weights random only with efficientnet-lite0, torchvision and timm models",
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(f"the model {name} is on the meta device and has no weights", "create it on cpu or cuda")
    record = Weights(name)
    if path is not None:
        record = describe_weights_file(path)
        load_weights(model, read_weights(path), record.source)
    size = _read_attribute(model, "size")
    return Classifier(
        model,
        name=name,
        labels=_read_names(model, "labels"),
        wnids=_read_names(model, "wnids"),
        mean=_read_channel_values(model, "mean"),
        std=_read_channel_values(model, "std"),
        preprocessing=None if size is None else _read_preprocessing(size),
        weights=record,
    )


def set_input(
    classifier: Classifier,
    *,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Set the input size (a side or height and width) and the normalization of a user's model, instead of its own.

    Raises UsageError for an invalid size, and for values that are not one number per channel.
    """
    if size is not None:
        classifier.preprocessing = Preprocessing.for_size(size)
    channels = len(classifier.mean)
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        numbers = _to_channel_numbers(values)
        is_valid = len(numbers) in (1, channels) and all(map(math.isfinite, numbers))
        if not is_valid or (name == "std" and min(numbers) <= 0):
            kind = "finite number" if name == "mean" else "number above 0"
            raise UsageError(f"invalid {name} {values!r} for {channels} channels", f"pass one {kind} per channel")
        getattr(classifier, name).copy_(torch.tensor(numbers, dtype=torch.float64)[:, None, None])


def _to_channel_numbers(values: Any) -> list[float]:
    """Return a number, or a sequence, array or tensor of numbers as a list; [] for anything else."""
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return []
    is_list = numbers.layout is torch.strided and not numbers.is_meta and numbers.ndim < 2
    if not is_list or numbers.is_complex() or numbers.dtype == torch.bool:
        return []
    return numbers.double().tolist() if numbers.ndim else [float(numbers)]


def read_output_request(model: nn.Module) -> OutputRequest:
    """Return what a module says about its outputs.

    Its attributes ``activation`` (softmax, sigmoid or none; others name another function), ``output`` (the entry that holds the
    logits) and ``threshold`` are read, then the configuration of Hugging Face models. Raises InputError if the threshold is invalid.
    """
    activation, entry = _read_attribute(model, "activation"), _read_attribute(model, "output")
    threshold = _read_attribute(model, "threshold")
    if threshold is not None:
        threshold = parse_threshold(threshold, InputError, "threshold of the model")
    request = OutputRequest(
        entry=str(entry) if isinstance(entry, str | int) and not isinstance(entry, bool) else None,
        threshold=threshold,
        threshold_source="attribute",
        is_library_class=type(model).__module__.split(".")[0] in LIBRARIES,
    )
    if is_activation(activation):
        return replace(request, activation=activation, source="attribute")
    return _read_config(model, request)


def _read_config(model: nn.Module, request: OutputRequest) -> OutputRequest:
    """Return the request with the problem type in the configuration of a Hugging Face model, if the module has one."""
    config = _read_attribute(model, "config")
    problem = getattr(config, "problem_type", None)
    if isinstance(problem, str) and problem in PROBLEM_TYPES:
        return replace(request, activation=PROBLEM_TYPES[problem], source="config")
    labels = getattr(config, "num_labels", None)
    is_hugging_face = hasattr(config, "to_dict") and _read_attribute(model, "main_input_name") == "pixel_values"
    if problem is not None or not isinstance(labels, int) or not is_hugging_face:
        return request
    if labels == 1:  # trained by the mean squared error
        return replace(request, activation="none", source="config", has_one_label=True)
    return replace(request, activation="softmax", source="config")


def _read_attribute(model: nn.Module, attribute: str) -> Any:
    """Return an attribute of a module; None if it has none, or a method of that name."""
    value = getattr(model, attribute, None)
    return None if callable(value) and not isinstance(value, torch.Tensor) else value


def _read_names(model: nn.Module, attribute: str) -> list[str]:
    """Return a list of names that is an attribute of a module, or []. Raises InputError for any other value."""
    value = _read_attribute(model, attribute)
    if value is None:
        return []
    is_list = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    if not is_list or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"the model's {attribute!r} is not a list of names", f"set model.{attribute} to a list of text"
        )
    return list(value)


def _read_preprocessing(size: Any) -> Preprocessing:
    """Return the preprocessing for the ``size`` of a module. Raises InputError if it is no size."""
    try:
        return Preprocessing.for_size(size.tolist() if hasattr(size, "tolist") else size)
    except UsageError as error:
        raise InputError(f"the model's 'size' is not a size: {error}") from None


def _read_channel_values(model: nn.Module, attribute: str) -> list[float]:
    """Return an attribute's value for all channels or for each of three, or [] if the module has no such numbers.

    Raises InputError for any other value or count.
    """
    value = _read_attribute(model, attribute)
    if value is None or isinstance(value, bool):
        return []
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        hint = "set one value per channel, 3 or 1"
        raise InputError(f"the model's {attribute!r} is of type {type(value).__name__}", hint) from None
    if len(numbers) not in (1, 3):
        raise InputError(f"the model's {attribute!r} has {len(numbers)} values", "use 1 or 3 values, one per channel")
    return numbers
