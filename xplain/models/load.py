"""Load a classifier by name: ``load_classifier`` selects the loader by the prefix of the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.config import EMBEDDED
from xplain.core.errors import MODEL_ERRORS, InputError, UsageError, device_error, emit_note, first_line
from xplain.core.rng import preserve_random_state
from xplain.core.types import ActivationName
from xplain.data.class_names import read_class_names
from xplain.data.preprocessing import Preprocessing, check_side
from xplain.models.black_box import FunctionModel
from xplain.models.channels import ChannelError
from xplain.models.checkpoints import describe_weights_file, hash_tensors, load_weights, read_weights
from xplain.models.classifier import Classifier, find_wrapped_classifier
from xplain.models.custom_models import describe_attributes, load_factory, read_output_request, set_input, wrap_module
from xplain.models.devices import select_device
from xplain.models.efficientnet_lite0 import load_efficientnet_lite0
from xplain.models.hugging_face_modules import NO_PROCESSOR_NOTE, complete_from_config
from xplain.models.inspection import inspect_model
from xplain.models.normalization import settle_normalization
from xplain.models.onnx_models import PREFIX as ONNX
from xplain.models.onnx_models import load_onnx
from xplain.models.optimize import copy_classifier
from xplain.models.output_reader import OutputReader
from xplain.models.output_request import OutputRequest, parse_activation, parse_threshold
from xplain.models.programs import check_program, load_program
from xplain.models.randomization import RANDOM, initialize_untrained, untrained_seed
from xplain.models.trials import check_model
from xplain.models.wrappers import unwrap
from xplain.models.zero_shot import TextRequest, make_request

PROGRAMS = ("script:", "export:")
OWN_MODELS = ("python:", ONNX, *PROGRAMS)  # names of models that are not of a library
# Copies of classifiers with other weights, by the SHA-256 of the weights file.
_COPIES: WeakKeyDictionary[Classifier, dict[str, Classifier]] = WeakKeyDictionary()


def load_classifier(
    name: str | nn.Module | Callable[[Any], Any] = EMBEDDED,
    device: str | torch.device = "auto",
    weights: str | Path | None = None,
    classes: str | Path | Sequence[str] | int | None = None,
    image_size: int | None = None,
    offline: bool = False,
    activation: ActivationName = "auto",
    logits: str | int | None = None,
    threshold: float | Sequence[float] | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    prompts: Sequence[str] = (),
    templates: Sequence[str] = (),
    processor: object = None,
    headless: bool = False,
) -> Classifier:
    """Load a classifier in evaluation mode. The classifier normalizes its input and maps pixels in [0, 1] to logits.

    Args:
        name: one of
            ``efficientnet-lite0``, the built-in model, which requires no download;
            a torchvision classification model such as ``resnet50`` or ``resnet50.IMAGENET1K_V1``;
            ``timm:NAME``, a timm model;
            ``hf:FOLDER`` or ``hf:REPOSITORY@REVISION``, a Hugging Face image classifier, CLIP or SigLIP; its code is not run;
            ``clip:ARCHITECTURE/TAG``, ``clip:hf-hub:REPOSITORY`` or ``clip:FOLDER``, a CLIP or SigLIP model of open_clip;
            ``python:package.module:factory``, a function that returns an nn.Module;
            ``script:FILE`` or ``export:FILE``, a TorchScript or torch.export program, whose code is run;
            ``onnx:FILE``, an ONNX model, which onnxruntime runs;
            an nn.Module that takes pixels in [0, 1]. Its attributes ``mean``, ``std``, ``size``, ``labels``, ``wnids``,
            ``activation``, ``threshold`` and ``output`` (the same as ``logits``) are used if it has them, else the configuration of a
            Hugging Face model; ``through_no_grad = True`` computes gradients through ``torch.no_grad`` in its forward pass. It may
            take any number of channels, which is found by running it. The classifier runs a copy that shares the parameters, so that
            the mode, hooks and gradients of the module do not change;
            a function of images (B, C, H, W), a NumPy array or a tensor, to an array or tensor (B, classes).
            ONNX models and functions have no gradients: only methods and metrics that call the model are supported.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        weights: a ``.pt``, ``.pth`` or ``.safetensors`` file to use instead of the model's weights. No code in it is executed.
            ``random`` uses untrained weights, which are the same in every call.
        classes: a file of class names, one per line, or a CSV file with the columns index, wnid, name; a list of class names; or the
            number of classes.
        image_size: height and width of the model input in pixels. Default: the native size of the model. The size before cropping is
            scaled proportionally, and the position embeddings of ViTs are interpolated.
        offline: do not download anything. The code of a ``python:`` factory is not restricted.
        activation: what turns the outputs of the last linear layer into probabilities: ``softmax`` (exclusive classes), ``sigmoid``
            (independent labels, or one output: class 1 against class 0), ``none`` (values without probabilities) or ``auto``, which
            detects it. An activation at the end of the network is not applied again.
        logits: name, dotted name or index of the logits in the output of a model with several outputs.
        threshold: the probability from which a label counts as present, one number or one per label (default: 0.5); for
            ``none``, in units of the output.
        size: height and width of the input of a user's own model or function, or its side. Default: that of the model, or 224.
        mean, std: the normalization of a user's own model or function, one number per channel: it gets (pixels - mean) / std.
        prompts: texts that CLIP and SigLIP models compare images with, one per class.
        templates: texts with {} for the names in ``classes``, for CLIP and SigLIP models. Default: "a photo of a {}.". The features
            of several templates are averaged.
        processor: image processor of a module, or a folder or repository with its preprocessor_config.json. It provides size,
            resizing and normalization. No code of it is run.
        headless: accept a timm, Hugging Face, CLIP or SigLIP model without a classification head or texts, whose output is then the
            embedding of an image, for targets such as ``similarity``.

    Returns:
        A Classifier. ``size``, ``preprocessing``, ``labels`` and ``wnids`` describe its input and classes.
        A ModelNote warning is emitted for every assumption about the model, such as exclusive classes or a single input channel.
        ``checks`` tells whether the model is random, mixes the rows of a call, or has no gradients. A module without ``size`` that
        does not accept images of 224 x 224 is inspected and checked at the first call of ``attribute`` or ``measure``.

    Raises:
        UsageError: if the name is unknown or the options are inconsistent.
        InputError: if the weights, class names or image size do not match the model, or its output has no logits.
        DeviceError: if the device is not available.

    Example:
        >>> classifier = xplain.load_classifier("resnet50", device="cuda", weights="tuned.safetensors", classes="names.txt")
    """
    _check_arguments(name, device, weights, classes, image_size)
    if size is not None or mean is not None or std is not None:
        _check_is_custom(name)
    texts = make_request(name, prompts, classes, templates)
    if processor is not None and isinstance(name, str):
        raise UsageError(f"processor cannot be used with {name!r}", "pass it with an nn.Module")
    told = _make_request(activation, logits, threshold)
    torch_device = select_device(str(device))
    path = None if weights is None else Path(weights)
    side = size if isinstance(size, int) else image_size
    if path == RANDOM:
        with untrained_seed():
            classifier = _build(name, path, side, offline, texts, processor, headless)
            initialize_untrained(classifier)
    else:
        classifier = _build(name, path, side, offline, texts, processor, headless)
    set_input(classifier, size=size, mean=mean, std=std)
    if mean is not None or std is not None:
        classifier.notes = [note for note in classifier.notes if note != NO_PROCESSOR_NOTE]
    if isinstance(name, str) and name.startswith(ONNX) and not classifier.is_normalized:
        classifier.notes.append(
            "the model receives pixels in [0, 1]; use --mean and --std if it expects normalized pixels"
        )
    classifier.to(torch_device).eval()
    if not classifier.texts:
        _set_class_names(classifier, classes)
    classifier.request = _complete_request(told, name, classifier)
    classifier.reader = OutputReader(classifier.request.entry)
    if isinstance(name, str) and name.startswith(PROGRAMS):
        check_program(classifier)
    is_size_known = image_size is not None or not isinstance(name, nn.Module) or hasattr(name, "size")
    _inspect(classifier, required=is_size_known, custom=_has_own_normalization(name), checked=_needs_checks(name))
    classifier.check_class_names()
    if isinstance(classes, int) and classifier.classes not in (None, classes):
        raise InputError(f"{classifier.name} has {classifier.classes} classes, not {classes}", "pass the right number")
    if isinstance(name, nn.Module) and (note := describe_attributes(name, classifier)):
        emit_note(note)
    return classifier


def _needs_checks(name: object) -> bool:
    """Return whether the network must be checked. The embedded model and those of torchvision are known to be sound.

    Functions and ONNX models are called only, and not checked.
    """
    return isinstance(name, nn.Module) or (isinstance(name, str) and ":" in name and not name.startswith(ONNX))


def _has_own_normalization(name: object) -> bool:
    """Return whether mean and std of the classifier are attributes of the user's module."""
    return isinstance(name, nn.Module) or (isinstance(name, str) and name.startswith(("python:", *PROGRAMS)))


def _check_is_custom(name: object) -> None:
    """Raise UsageError unless the model is a user's own."""
    if isinstance(name, str) and not name.startswith(OWN_MODELS):
        raise UsageError(f"the model {name!r} has its own input size and normalization", "remove size, mean and std")


def _set_class_names(classifier: Classifier, classes: str | Path | Sequence[str] | int | None) -> None:
    """Set the class names: those of a file, or a list. A number of classes and None name none."""
    if isinstance(classes, str | PathLike):
        classifier.names_source = repr(str(classes))
        wnids, labels = read_class_names(Path(classes))
        classifier.wnids, classifier.labels = list(wnids), list(labels)
    elif classes is not None and not isinstance(classes, int):
        classifier.names_source = "the list of classes"
        classifier.wnids, classifier.labels = [], list(classes)


def _make_request(activation: object, logits: object, threshold: object) -> OutputRequest:
    """Return what the arguments of ``load_classifier`` say about the outputs. Raises UsageError if one is invalid."""
    request = OutputRequest(activation=parse_activation(activation), source="user", threshold_source="user")
    if logits is not None:
        if not isinstance(logits, str | int) or isinstance(logits, bool) or logits == "":
            raise UsageError(f"invalid logits {logits!r}", "use the name or index of an entry of the model's output")
        request = replace(request, entry=str(logits))
    if threshold is not None:
        request = replace(request, threshold=parse_threshold(threshold, UsageError, "threshold"))
    return request


def _complete_request(told: OutputRequest, name: object, classifier: Classifier) -> OutputRequest:
    """Return the request of the user, completed by the attributes of a module of the user's own, or by the loader's knowledge."""
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


def _check_arguments(name: object, device: object, weights: object, classes: object, image_size: object) -> None:
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


def copy_with_weights(classifier: Classifier, path: str) -> Classifier:
    """Return a copy of the classifier with the weights in a file, which is read once. Raises InputError if they do not fit."""
    record = describe_weights_file(Path(path))
    copies = _COPIES.setdefault(classifier, {})
    if record.sha256 not in copies:
        copied = copy_classifier(classifier)
        load_weights(copied.model, read_weights(Path(path)), path)
        copied.weights = record
        copies[record.sha256] = copied
    return copies[record.sha256]


def _build(
    name: str | nn.Module | Callable[[Any], Any],
    path: Path | None,
    image_size: int | None,
    offline: bool,
    request: TextRequest,
    processor: object,
    headless: bool,
) -> Classifier:
    """Return the classifier with the weights in ``path`` and their hash, for images of its own size or of ``image_size``."""
    if isinstance(name, nn.Module):
        classifier = wrap_module(name, type(unwrap(name)[-1]).__name__, path)
    elif isinstance(name, str):
        classifier = _load_by_name(name, path, image_size, offline, request, headless)
    else:
        classifier = wrap_module(FunctionModel(name), getattr(name, "__name__", type(name).__name__), path)
    if not isinstance(name, str) or name.startswith("python:"):
        complete_from_config(classifier, processor, image_size, offline)
    if image_size is not None:
        classifier.preprocessing = classifier.preprocessing.resized_to(image_size)
    if not classifier.weights.sha256 and not classifier.is_black_box:
        classifier.weights = replace(classifier.weights, sha256=hash_tensors(classifier.model))
    return classifier


def _load_by_name(
    name: str, path: Path | None, image_size: int | None, offline: bool, request: TextRequest, headless: bool
) -> Classifier:
    if name == EMBEDDED:
        return load_efficientnet_lite0(path)
    if name.startswith("python:"):
        return wrap_module(load_factory(name), name, path)
    if name.startswith(PROGRAMS):
        return _load_program(name, path)
    if name.startswith(ONNX):
        _check_no_weights(name, path)
        return load_onnx(name)
    if name.startswith("timm:"):
        from xplain.models.timm_models import load_timm

        return load_timm(name, path, image_size, offline, headless=headless)
    if name.startswith("hf:"):
        from xplain.models.hugging_face import load_hugging_face

        return load_hugging_face(name, path, image_size, offline, request, headless=headless)
    if name.startswith("clip:"):
        from xplain.models.open_clip_models import load_open_clip

        return load_open_clip(name, path, image_size, offline, request, headless=headless)
    from xplain.models.torchvision_models import load_torchvision

    return load_torchvision(name, path, image_size, offline)


def _check_no_weights(name: str, path: Path | None) -> None:
    if path is not None:
        raise UsageError(f"the model {name!r} includes its weights", "remove --weights")


def _load_program(name: str, path: Path | None) -> Classifier:
    _check_no_weights(name, path)
    classifier = wrap_module(load_program(name), name, None, copy=False)
    classifier.weights = describe_weights_file(Path(name.partition(":")[2]))
    return classifier


def _inspect(classifier: Classifier, *, required: bool, custom: bool, checked: bool) -> None:
    """Inspect and check the model, and warn with its notes.

    required: raise every InputError of the inspection, not only a ChannelError. Otherwise inspect the model again when the first images
        are known: they may have another size than assumed.
    custom: mean and std are attributes of the network. checked: run ``check_model``.
    """
    classifier.awaits_detection = True
    try:
        with preserve_random_state():
            inspect_model(classifier)
    except ChannelError:
        raise
    except InputError:
        if required:
            raise
        classifier.awaits_images = True
    except MODEL_ERRORS as error:
        known = device_error(error)
        if known:
            raise known from None
        if required:
            raise InputError(
                f"{classifier.name} failed on noise images ({type(error).__name__}: {first_line(error)})",
                "check the model with images of this size",
            ) from error
        classifier.awaits_images = True
    else:
        if custom:
            settle_normalization(classifier)
        if checked:
            classifier.notes += check_model(classifier)
    for note in classifier.notes:
        emit_note(note)


def inspect_first_images(classifier: Classifier, images: Tensor) -> None:
    """Inspect and check a model whose size was unknown, at the size of the first images (B, C, H, W), and warn with new notes.

    If the model does not accept the images, its prediction raises the error.
    """
    if not classifier.awaits_images:
        return
    known, preprocessing = list(classifier.notes), classifier.preprocessing
    classifier.preprocessing = Preprocessing.for_size((images.shape[-2], images.shape[-1]))
    try:
        with preserve_random_state():
            inspect_model(classifier)
    except (InputError, *MODEL_ERRORS) as error:
        if known_error := device_error(error):
            raise known_error from None
        classifier.preprocessing = preprocessing
        return
    classifier.awaits_images = False
    settle_normalization(classifier)
    classifier.notes += check_model(classifier)
    for note in classifier.notes:
        if note not in known:
            emit_note(note)
    classifier.check_class_names()
