"""User-defined models: call a ``python:`` factory, and wrap an nn.Module as a classifier."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.data.preprocessing import Preprocessing
from xplain.models.checkpoints import describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.randomization import RANDOM


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
    Raises InputError if the weights do not fit, and UsageError if ``path`` is RANDOM.
    """
    if path == RANDOM:
        raise UsageError(
            f"{name!r} does not support --weights random",
            "use --weights random only with efficientnet-lite0, torchvision and timm models",
        )
    record = Weights(name)
    if path is not None:
        record = describe_weights_file(path)
        load_weights(model, read_weights(path), record.source)
    size = getattr(model, "size", None)
    return Classifier(
        model,
        name=name,
        labels=list(getattr(model, "labels", ())),
        wnids=list(getattr(model, "wnids", ())),
        mean=_read_channel_values(model, "mean"),
        std=_read_channel_values(model, "std"),
        preprocessing=None if size is None else Preprocessing.for_size(size),
        weights=record,
    )


def _read_channel_values(model: nn.Module, attribute: str) -> list[float]:
    """Return an attribute's value for all channels or for each of three, or [] if the module has no such numbers.

    Raises InputError for any other count.
    """
    value = getattr(model, attribute, None)
    if value is None or isinstance(value, bool) or (callable(value) and not isinstance(value, torch.Tensor)):
        return []
    numbers = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    if len(numbers) not in (1, 3):
        raise InputError(f"the model's {attribute!r} has {len(numbers)} values", "use 1 or 3 values, one per channel")
    return numbers
