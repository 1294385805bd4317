"""Load a classifier by name: ``load_classifier`` selects the loader by the prefix of the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from xplain.core.errors import InputError, UsageError, convert_device_errors, emit_note
from xplain.core.options import EMBEDDED
from xplain.core.types import ActivationName
from xplain.models.arithmetic import reproducible_arithmetic
from xplain.models.assumed_input import note_normalization
from xplain.models.black_box import FunctionModel
from xplain.models.checkpoints import describe_weights_file, hash_tensors, load_weights, read_weights
from xplain.models.classifier import Classifier
from xplain.models.custom_models import declares_size, describe_attributes, load_factory, set_input, wrap_module
from xplain.models.devices import select_device
from xplain.models.efficientnet_lite import VERSIONS, load_efficientnet_lite
from xplain.models.first_inspection import inspect_loaded
from xplain.models.hugging_face_modules import NO_PROCESSOR_NOTE, complete_from_config
from xplain.models.layer_names import remember_module
from xplain.models.load_arguments import (
    PROGRAMS,
    check_arguments,
    check_is_own_model,
    complete_output_request,
    make_output_request,
    set_class_names,
)
from xplain.models.onnx_models import PREFIX as ONNX
from xplain.models.onnx_models import load_onnx
from xplain.models.optimize import copy_classifier
from xplain.models.output_reader import OutputReader
from xplain.models.programs import check_program, load_program
from xplain.models.randomization import RANDOM, initialize_untrained, untrained_seed
from xplain.models.wrappers import unwrap
from xplain.models.zero_shot import TextRequest, make_request

NO_ROOM = "use a smaller model, a smaller --image-size or another --device"

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
    labels: Sequence[str] | None = None,
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
        labels: class names in the order of the logits; the same as a list in ``classes``.
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
        does not accept images of 224 x 224 is inspected and checked with its first images.

    Raises:
        UsageError: if the name is unknown or the options are inconsistent.
        InputError: if the weights, class names or image size do not match the model, or its output has no logits.
        DeviceError: if the device is not available or has too little memory.

    Example:
        >>> classifier = xplain.load_classifier("resnet50", device="cuda", weights="tuned.safetensors", classes="names.txt")
    """
    if labels is not None:
        if classes is not None:
            raise UsageError("labels and classes both name the classes", "use one of them")
        classes = list(labels)
    check_arguments(name, device, weights, classes, image_size)
    if size is not None or mean is not None or std is not None:
        check_is_own_model(name)
    texts = make_request(name, prompts, classes, templates)
    if processor is not None and isinstance(name, str):
        raise UsageError(f"processor cannot be used with {name!r}", "pass it with an nn.Module")
    told = make_output_request(activation, logits, threshold)
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
    with convert_device_errors(NO_ROOM):
        classifier.to(torch_device).eval()
    if not classifier.texts:
        set_class_names(classifier, classes)
    classifier.request = complete_output_request(told, name, classifier)
    classifier.reader = OutputReader(classifier.request.entry)
    if isinstance(name, str) and name.startswith(PROGRAMS):
        check_program(classifier)
    is_told = size is not None or image_size is not None
    is_size_known = is_told or not isinstance(name, nn.Module) or declares_size(name)
    with reproducible_arithmetic(torch_device), convert_device_errors(NO_ROOM):
        inspect_loaded(
            classifier, required=is_size_known, custom=_has_own_normalization(name), checked=_needs_checks(name)
        )
    note_normalization(classifier)
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
        remember_module(classifier, name)
    elif isinstance(name, str):
        classifier = _load_by_name(name, path, image_size, offline, request, headless)
    else:
        classifier = wrap_module(FunctionModel(name), getattr(name, "__name__", type(name).__name__), path)
        classifier.assumptions.discard("normalization")  # the function normalizes its images
    if not isinstance(name, str) or name.startswith("python:"):
        complete_from_config(classifier, processor, image_size, offline)
    if image_size is not None:
        classifier.preprocessing = classifier.preprocessing.resized_to(image_size)
        classifier.assumptions.discard("size")
    if not classifier.weights.sha256 and not classifier.is_black_box:
        classifier.weights = replace(classifier.weights, sha256=hash_tensors(classifier.model))
    return classifier


def _load_by_name(
    name: str, path: Path | None, image_size: int | None, offline: bool, request: TextRequest, headless: bool
) -> Classifier:
    if name in VERSIONS:
        return load_efficientnet_lite(name, path)
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
