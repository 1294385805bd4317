"""The normalization of a user's module: the unit of ``mean`` and ``std``, and modules that apply them themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xplain.core.errors import MODEL_ERRORS, InputError, device_error
from xplain.core.rng import preserve_random_state
from xplain.models.classifier import Classifier

BYTE = 255.0
BYTE_NOTE = "mean and std of the module are those of pixels from 0 to 255; both are divided by 255"


def check_normalization(mean: Sequence[float], std: Sequence[float], name: str) -> tuple[list[float], list[float], str]:
    """Return mean and std in units of pixels in [0, 1], and a note if they were converted.

    If the mean exceeds 1 or the std exceeds 2, both are those of pixels from 0 to 255 and are divided by 255, if that is plausible.
    Raises InputError unless all values are finite and std is positive.
    """
    for label, values in (("mean", mean), ("std", std)):
        if not all(math.isfinite(value) for value in values):
            raise InputError(f"the {label} of {name} contains NaN or infinity", "set finite values")
    if any(value <= 0 for value in std):
        raise InputError(f"the std of {name} contains {min(std):g}", "set positive values")
    is_byte_unit = max((*mean, *std), default=0.0) <= BYTE and min(std, default=1.0) >= 1
    if _is_pixel_unit(mean, std) or not is_byte_unit:
        return list(mean), list(std), ""
    std = std or [1.0] * len(mean)
    return [value / BYTE for value in mean], [value / BYTE for value in std], BYTE_NOTE


def _is_pixel_unit(mean: Sequence[float], std: Sequence[float]) -> bool:
    return all(value <= 1 for value in mean) and all(value <= 2 for value in std)


def settle_normalization(classifier: Classifier) -> None:
    """Disable ``mean`` and ``std`` if the network applies them in its own forward pass, and add a note.

    Attributes of the network with these names are replaced by NaN to find out whether the output changes.
    Raises InputError if mean and std are applied and have no common unit of pixels.
    """
    network = classifier.model
    names = [name for name in ("mean", "std") if _is_set(network, name)]
    if names and not _is_identity(classifier) and _uses(classifier, names):
        classifier.mean.zero_()
        classifier.std.fill_(1)
        classifier.notes = [note for note in classifier.notes if note != BYTE_NOTE]
        classifier.notes.append(f"the module applies its {' and '.join(names)} itself; they are not applied again")
    mean, std = classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()
    if not _is_pixel_unit(mean, std):
        raise InputError(
            f"the mean ({_list_values(mean)}) and std ({_list_values(std)}) of {classifier.name} have no common unit of pixels",
            "set both for pixels in [0, 1]",
        )


def _list_values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


@torch.no_grad()
def _uses(classifier: Classifier, names: Sequence[str]) -> bool:
    """Return whether the logits depend on attributes of the network."""
    shape = (2, classifier.channels, *classifier.size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=classifier.dtype).to(classifier.device)
    with preserve_random_state(), _replaced_by_nan(classifier.model, names):
        return _has_nan(classifier, noise)


def _is_set(module: nn.Module, name: str) -> bool:
    value = getattr(module, name, None)
    return value is not None and (isinstance(value, Tensor) or not callable(value))


def _is_identity(classifier: Classifier) -> bool:
    return not bool(classifier.mean.any()) and bool((classifier.std == 1).all())


def _has_nan(classifier: Classifier, noise: Tensor) -> bool:
    """Return whether the logits contain NaN, or the forward pass fails."""
    try:
        return bool(classifier(noise).isnan().any())
    except MODEL_ERRORS as error:
        if device_error(error):
            raise
        return True


@contextmanager
def _replaced_by_nan(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Replace attributes of a module by NaN of the same type in this context."""
    if isinstance(module, torch.jit.ScriptModule):  # its tables are views
        originals_of_script = {name: getattr(module, name) for name in names}
        try:
            for name, value in originals_of_script.items():
                setattr(module, name, _nan_like(value))
            yield
        finally:
            for name, value in originals_of_script.items():
                setattr(module, name, value)
        return
    originals = [(name, _find_table(module, name)) for name in names]
    values = [(name, table, table.get(name)) for name, table in originals]
    try:
        for name, table, _ in values:
            table[name] = _nan_like(getattr(module, name))
        yield
    finally:
        for name, table, value in values:
            if value is None:  # an attribute of the class
                table.pop(name, None)
            else:
                table[name] = value


def _find_table(module: nn.Module, name: str) -> dict[str, Any]:
    """Return the dictionary of the module that holds an attribute; that of plain attributes for one of the class."""
    tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    return next((table for table in tables if name in table), vars(module))


def _nan_like(value: Any) -> Any:
    """Return NaN in the type and shape of numbers."""
    if isinstance(value, nn.Parameter):
        return nn.Parameter(torch.full_like(value, torch.nan), requires_grad=False)
    if isinstance(value, Tensor):
        return torch.full_like(value, torch.nan) if value.is_floating_point() else value
    if isinstance(value, np.ndarray):
        return np.full(value.shape, np.nan, dtype=np.float32)
    if isinstance(value, list | tuple):
        return type(value)(_nan_like(part) for part in value)
    return math.nan
