"""Names of layers that a user passes as modules."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

from torch import nn

from xplain.core.errors import UsageError
from xplain.models.classifier import Classifier
from xplain.models.wrappers import unwrap

_original_modules: WeakKeyDictionary[Classifier, tuple[nn.Module, ...]] = WeakKeyDictionary()


def remember_module(classifier: Classifier, module: nn.Module) -> None:
    """Remember the user's module of which the classifier has a copy, so that layers of either are recognized."""
    _original_modules[classifier] = (module, unwrap(module)[-1])


def find_layer_name(classifier: Classifier, layer: object, prefix: str = "") -> str:
    """Return the value of the parameter ``layer``: text as it is, and for modules their names, joined by plus signs.

    layer: a name, a module of the classifier or of the module that it was made of, or a list of them.
    prefix: precedes the names of modules, if the classifier that runs holds this one's model.
    Raises UsageError for anything else.
    """
    if isinstance(layer, str):
        return layer
    if isinstance(layer, list | tuple) and layer and all(isinstance(entry, str | nn.Module) for entry in layer):
        return "+".join(find_layer_name(classifier, entry, prefix) for entry in layer)
    if not isinstance(layer, nn.Module):
        raise UsageError(
            f"the layer is of type {type(layer).__name__}", "pass its name or the module, or a list of them"
        )
    for name, module in _list_modules(classifier):
        if module is layer and name:
            return f"{prefix}{name}"
    raise UsageError(
        f"the layer {type(layer).__name__} is not a part of {classifier.name}",
        "pass a module inside the model that was given to load_classifier, or inside classifier.model",
    )


def _list_modules(classifier: Classifier) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of the classifier and of the user's module, with their names in ``classifier.model``."""
    for root in (classifier.model, *reversed(_original_modules.get(classifier, ()))):
        yield from root.named_modules(remove_duplicate=False)
