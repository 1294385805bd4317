"""User-defined models: call a ``python:`` factory, and wrap an nn.Module as a classifier."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from xplain.core.errors import InputError, UsageError, XplainError, did_you_mean, first_line
from xplain.data.preprocessing import Preprocessing
from xplain.models.assumed_input import normalizes_itself
from xplain.models.checkpoints import describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.normalization import check_normalization
from xplain.models.output_request import OutputRequest, is_activation, parse_threshold
from xplain.models.randomization import RANDOM
from xplain.models.wrappers import check_usable, unwrap, working_copy

HALF_PRECISIONS = {torch.float16, torch.bfloat16}

# ``package.module:factory``, or a file instead of the module: ``package/module.py:factory``.
FACTORY = re.compile(r"(?P<module>[^\W\d]\w*(?:[./][^\W\d]\w*)*?)(?:\.py)?:(?P<factory>[^\W\d]\w*)")

WEIGHTS_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
SOURCES = ("timm", "hf", "clip", "script", "export", "onnx")  # prefixes of other models
LIBRARIES = ("torchvision", "timm")
# Activations by the ``problem_type`` in the configuration of Hugging Face models.
PROBLEM_TYPES: dict[str, Literal["softmax", "sigmoid", "none"]] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}


def load_factory(name: str) -> nn.Module:
    """Return the module that ``python:package.module:factory`` returns, or that it is. The current directory is importable.

    Raises UsageError if there is no such module or function, and InputError if it fails or returns something else.
    """
    module_name, colon, factory_name = name.removeprefix("python:").partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), factory_name)):
        raise UsageError(f"invalid model name {name!r}", suggest_factory(name) or "use python:package.module:factory")
    module = _import_module(module_name, name)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        functions = [attribute for attribute in dir(module) if callable(getattr(module, attribute))]
        hint = did_you_mean(factory_name, functions, "use a function that returns an nn.Module")
        raise UsageError(f"module {module_name!r} has no function {factory_name!r}", hint)
    try:
        model = factory if isinstance(factory, nn.Module) else factory()
    except Exception as error:
        raise _own_code_error(f"{name!r} failed", error) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name!r} returned {type(model).__name__}, not an nn.Module", "return the module itself")
    return model


def suggest_factory(name: str) -> str:
    """Return a hint for a factory without ``python:`` or as a file, a misspelled prefix, or another file, otherwise ``""``."""
    if name.endswith(WEIGHTS_SUFFIXES):
        return f"to load a file of weights, use --weights {name} and name the network by -m, such as -m python:MODULE:FACTORY"
    if name.endswith(".py"):
        module = ".".join(Path(name.removeprefix("python:")).with_suffix("").parts)
        return (
            f"use python:{module}:FACTORY, where FACTORY is a function that returns the network, or the network itself"
        )
    if name.lower().endswith(IMAGE_SUFFIXES):
        return "it is the name of an image; in Python, the model comes before the images"
    match = FACTORY.fullmatch(name.removeprefix("python:"))
    if match is None:
        return ""
    prefix, _, rest = name.partition(":")
    if similar := get_close_matches(prefix.lower(), SOURCES, n=1, cutoff=0.75):
        return "" if prefix == similar[0] else f"did you mean '{similar[0]}:{rest}'?"
    suggestion = f"python:{match['module'].replace('/', '.')}:{match['factory']}"
    return "" if suggestion == name else f"did you mean {suggestion!r}?"


def _import_module(module_name: str, name: str) -> ModuleType:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise _own_code_error(f"module {module_name!r} of model {name!r} cannot be imported", error) from error
        hint = suggest_factory(name) or "install it or run the command in its directory"
        raise UsageError(f"module {module_name!r} of model {name!r} not found", hint) from None


def _own_code_error(message: str, error: Exception) -> Exception:
    """Return an error that names what the user's code raised and where. Errors of xplain are returned as they are."""
    if isinstance(error, XplainError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    line = "" if place.filename == __file__ else f" ({Path(place.filename).name}, line {place.lineno})"
    return InputError(
        f"{message}: {type(error).__name__}: {first_line(error)}{line}", "run the code in Python to see the traceback"
    )


def wrap_module(model: nn.Module, name: str, path: Path | None, *, copy: bool = True) -> Classifier:
    """Return a user's module as a classifier, with the weights in ``path`` if it is not None.

    The attributes ``mean``, ``std``, ``size``, ``labels``, ``wnids`` and ``through_no_grad`` of the module are used if it has them,
    also those of a module inside a wrapper such as DataParallel.
    copy: use a copy of the module, whose mode, device, hooks and gradients then do not change. It shares the memory of the parameters,
    unless weights are loaded or another type is needed.
    Raises InputError if the weights do not fit, the module cannot be used or an attribute is invalid, and UsageError if ``path`` is RANDOM.
    """
    if path == RANDOM:
        raise UsageError(
            f"{name!r} does not support --weights random",
            "use --weights random only with efficientnet-lite0, torchvision and timm models",
        )
    check_usable(model, name)
    _check_signature(unwrap(model)[-1], name)
    network = working_copy(unwrap(model)[-1], name, share=path is None) if copy else model
    record = Weights(name)
    if path is not None:
        record = describe_weights_file(path)
        load_weights(network, read_weights(path), record.source)
    notes = _convert_to_float32(network)
    size = _read_attribute(model, "size")
    mean, std, note = check_normalization(_read_channel_values(model, "mean"), _read_channel_values(model, "std"), name)
    classifier = Classifier(
        network,
        name=name,
        labels=_read_names(model, "labels"),
        wnids=_read_names(model, "wnids"),
        mean=mean,
        std=std,
        preprocessing=None if size is None else _read_preprocessing(size),
        weights=record,
    )
    classifier.execution.through_no_grad = _read_attribute(model, "through_no_grad") is True
    classifier.notes += [*notes, note] if note else notes
    if size is None:
        classifier.assumptions.add("size")
    if not mean and not std and not normalizes_itself(network):
        classifier.assumptions.add("normalization")
    return classifier


def describe_attributes(model: nn.Module, classifier: Classifier) -> str:
    """Return a note on the attributes of a user's module that the classifier uses, or ``""`` if there are none."""
    parts = []
    if _read_attribute(model, "size") is not None:
        parts.append("size {} x {}".format(*classifier.size))
    for name, values, identity in (("mean", classifier.mean, 0), ("std", classifier.std, 1)):
        if _read_attribute(model, name) is not None and bool((values != identity).any()):
            parts.append(f"{name} {', '.join(f'{value:.4g}' for value in values.flatten().tolist())}")
    parts += [f"{len(names)} {kind}" for kind in ("labels", "wnids") if (names := _read_names(model, kind))]
    return f"from the module: {'; '.join(parts)}" if parts else ""


def declares_size(model: nn.Module) -> bool:
    """Return whether a user's module, or one inside its wrappers, has the attribute ``size``."""
    return any(hasattr(module, "size") for module in unwrap(model))


def _check_signature(model: nn.Module, name: str) -> None:
    """Raise InputError if the forward pass requires more than one argument."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # such as functions of TorchScript
        return
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(required) > 1:
        raise InputError(
            f"the forward pass of {name} takes {' and '.join(required)}",
            "wrap the model in a module that takes images only",
        )


def _convert_to_float32(network: nn.Module) -> list[str]:
    """Convert half-precision parameters and buffers to float32, and return a note if there are any."""
    kinds = {tensor.dtype for tensor in (*network.parameters(), *network.buffers())} & HALF_PRECISIONS
    if not kinds:
        return []
    network._apply(lambda tensor: tensor.float() if tensor.dtype in HALF_PRECISIONS else tensor)
    names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    return [f"the parameters are {names}; the model is run in float32"]


def set_input(
    classifier: Classifier,
    *,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Set the input size (a side or height and width) and the normalization of a user's model, instead of its own.

    Raises UsageError for an invalid size, and for values that are not one number per channel. The length of the values sets the
    number of channels.
    """
    if size is not None:
        classifier.preprocessing = Preprocessing.for_size(size)
        classifier.assumptions.discard("size")
    declared = getattr(classifier.model, "channels", None)
    channels = declared if isinstance(declared, int) else classifier.input_channels
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        numbers = _to_channel_numbers(values)
        is_valid = bool(numbers) and all(map(math.isfinite, numbers))
        if isinstance(declared, int):
            is_valid = is_valid and len(numbers) in (1, channels)
        if not is_valid or (name == "std" and min(numbers) <= 0):
            kind = "finite number" if name == "mean" else "number above 0"
            raise UsageError(f"invalid {name} {values!r} for {channels} channels", f"pass one {kind} per channel")
        setattr(classifier, name, torch.tensor(numbers, dtype=torch.float64).to(classifier.mean)[:, None, None])
    if mean is not None or std is not None:
        classifier.assumptions.discard("normalization")
        _match_lengths(classifier)


def _match_lengths(classifier: Classifier) -> None:
    """Give mean and std the same number of values, and set the channels of the classifier to it. Raises UsageError if they differ.

    A mean of zeros and a std of ones fit any number.
    """
    if not bool(classifier.mean.any()):
        classifier.mean = classifier.mean[:1]
    if bool((classifier.std == 1).all()):
        classifier.std = classifier.std[:1]
    lengths = len(classifier.mean), len(classifier.std)
    if min(lengths) > 1 and lengths[0] != lengths[1]:
        raise UsageError(
            f"the mean has {lengths[0]} values and the std has {lengths[1]}", "pass one number per channel for both"
        )
    count = max(lengths)
    classifier.mean = classifier.mean.expand(count, 1, 1).clone()
    classifier.std = classifier.std.expand(count, 1, 1).clone()
    if count > 1:
        classifier.set_channels(count)


def _to_channel_numbers(values: Any) -> list[float]:
    """Return a number, or a sequence, array or tensor of numbers as a list; [] for anything else."""
    try:
        numbers = values if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))  # float64
    except (TypeError, ValueError, RuntimeError):
        return []
    is_list = numbers.layout is torch.strided and not numbers.is_meta and numbers.ndim < 2
    if not is_list or numbers.is_complex() or numbers.dtype == torch.bool:
        return []
    return numbers.double().tolist() if numbers.ndim else [float(numbers)]


def read_output_request(model: nn.Module) -> OutputRequest:
    """Return what a module states about its outputs.

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
    """Return an attribute of the outermost module that has it, or None. Methods of that name are ignored."""
    for module in unwrap(model):
        value = getattr(module, attribute, None)
        if value is not None and (isinstance(value, torch.Tensor) or not callable(value)):
            return value
    return None


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
    """Return an attribute's value for all channels or for each of them, or [] if the module has no such numbers.

    Raises InputError for any other value.
    """
    value = _read_attribute(model, attribute)
    if value is None or isinstance(value, bool):
        return []
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        hint = "set one value per channel, or a single one"
        raise InputError(f"the model's {attribute!r} is of type {type(value).__name__}", hint) from None
    if not numbers:
        raise InputError(f"the model's {attribute!r} is empty", "set one value per channel, or a single one")
    return numbers
