"""Check the arguments of ``load_classifier``, and apply those on class names and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from xplain.core.errors import UsageError
from xplain.data.class_names import read_class_names
from xplain.data.preprocessing import check_side
from xplain.models.classifier import Classifier, find_wrapped_classifier
from xplain.models.custom_models import read_output_request
from xplain.models.onnx_models import PREFIX as ONNX
from xplain.models.output_request import OutputRequest, parse_activation, parse_threshold

PROGRAMS = ("script:", "export:")
OWN_MODELS = ("python:", ONNX, *PROGRAMS)  # names of models that are not of a library


def check_arguments(name: object, device: object, weights: object, classes: object, image_size: object) -> None:
    """Raise UsageError unless the arguments of ``load_classifier`` have the right types."""
    if find_wrapped_classifier(name):
        raise UsageError("the model is a classifier already", "pass it to attribute and measure as it is")
    if isinstance(name, type) or not (isinstance(name, str | nn.Module) or callable(name)):
        hint = "create it: pass Model(), not Model" if isinstance(name, type) else "pass a name or an nn.Module"
        if isinstance(name, PathLike):
            hint = "pass the name of its architecture, and the file as weights"
        raise UsageError(f"the model is of type {type(name).__name__}", hint)
    if not isinstance(device, str | torch.device):
        raise UsageError(f"unknown device {device!r}", "use auto, cpu, cuda, cuda:N or mps")
    if weights is not None and not isinstance(weights, str | PathLike):
        hint = "pass a file, or call model.load_state_dict and pass the model"
        raise UsageError(f"weights are of type {type(weights).__name__}, not a path", hint)
    if not _is_classes(classes):
        hint = "pass a file with one name per line, or set the names as model.labels"
        raise UsageError(f"classes are of type {type(classes).__name__}, not a path or names", hint)
    if callable(name) and not isinstance(name, nn.Module) and weights is not None:
        raise UsageError("a function has no weights to load", "remove weights")
    if image_size is not None:
        check_side(image_size, "image size")


def _is_classes(classes: object) -> bool:
    """Return whether a value is a path, a list of names, a number of classes, or None."""
    if isinstance(classes, list | tuple):
        return bool(classes) and all(isinstance(label, str) for label in classes)
    if isinstance(classes, int):
        return not isinstance(classes, bool) and classes > 0
    return classes is None or isinstance(classes, str | PathLike)


def check_is_own_model(name: object) -> None:
    """Raise UsageError unless the model is a user's own."""
    if isinstance(name, str) and not name.startswith(OWN_MODELS):
        raise UsageError(f"the model {name!r} has its own input size and normalization", "remove size, mean and std")


def set_class_names(classifier: Classifier, classes: str | Path | Sequence[str] | int | None) -> None:
    """Set the class names: those of a file, or a list. A number of classes and None set no names."""
    if isinstance(classes, str | PathLike):
        classifier.names_source = repr(str(classes))
        wnids, labels = read_class_names(Path(classes))
        classifier.wnids, classifier.labels = list(wnids), list(labels)
    elif classes is not None and not isinstance(classes, int):
        classifier.names_source = "the list of classes"
        classifier.wnids, classifier.labels = [], list(classes)


def make_output_request(activation: object, logits: object, threshold: object) -> OutputRequest:
    """Return what the arguments of ``load_classifier`` state about the outputs. Raises UsageError if one is invalid."""
    request = OutputRequest(activation=parse_activation(activation), source="user", threshold_source="user")
    if logits is not None:
        if not isinstance(logits, str | int) or isinstance(logits, bool) or logits == "":
            raise UsageError(f"invalid logits {logits!r}", "use the name or index of an entry of the model's output")
        request = replace(request, entry=str(logits))
    if threshold is not None:
        request = replace(request, threshold=parse_threshold(threshold, UsageError, "threshold"))
    return request


def complete_output_request(told: OutputRequest, name: object, classifier: Classifier) -> OutputRequest:
    """Return the request of the user, completed by the attributes of a user's module, or by what the loader knows about its model."""
    if isinstance(name, str) and not name.startswith(OWN_MODELS):
        known = OutputRequest(known_kind=classifier.output)
        if classifier.output.source != "default":
            activation = "sigmoid" if classifier.output.activation == "binary" else classifier.output.activation
            known = replace(known, activation=activation, source=classifier.output.source)
    else:
        known = read_output_request(name if isinstance(name, nn.Module) else classifier.model)
    if told.activation is not None:
        known = replace(known, activation=told.activation, source="user", has_one_label=False)
    if told.entry is not None:
        known = replace(known, entry=told.entry)
    if told.threshold is not None:
        known = replace(known, threshold=told.threshold, threshold_source="user")
    return known
