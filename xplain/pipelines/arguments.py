"""Check the arguments of ``attribute`` and ``measure``: classifiers, images, attributions and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from os import PathLike
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.option_values import parse_batch_size
from xplain.core.options import ComputeOptions
from xplain.core.scores import SCORE_FORMAT, SCORE_KINDS, ContrastScore, parse_score
from xplain.core.types import EngineName, Precision
from xplain.data.unit_range import RANGE_HINT, check_unit_range
from xplain.models import Classifier, load_classifier
from xplain.models.channels import learn_channels
from xplain.models.classifier import find_wrapped_classifier

READ_HINT = "use xplain.read_image(path, preprocessing=classifier.preprocessing)[None]"
MASKS_HINT = "pass 0 and 1, and NaN for ignored pixels, of shape (images, masks, height, width)"
BOXES_HINT = "pass numbers (images, boxes, 4) in pixels of the images"
LAYER_NAMES = ("target_layer", "target_layers")  # of ``layer`` in pytorch-grad-cam and torch-cam

_any_range = ContextVar("_any_range", default=False)  # whether images may leave [0, 1]


@contextmanager
def accept_any_range() -> Iterator[None]:
    """Accept images outside [0, 1] within the context, as metrics make them of images inside."""
    token = _any_range.set(True)
    try:
        yield
    finally:
        _any_range.reset(token)


def check_keywords(
    function: Callable[..., Any], names: Iterable[str], parameters: Collection[str] | None = None
) -> None:
    """Raise UsageError for keywords that are misspelled arguments of a public function.

    names: the keywords that are not arguments of the function.
    parameters: names that a method or metric accepts. Names that are similar to neither are left to it. None: no other name is
    accepted.
    """
    arguments = [
        name
        for name, argument in inspect.signature(function).parameters.items()
        if argument.kind is not argument.VAR_KEYWORD
    ]
    for name in names:
        if name in LAYER_NAMES and name not in (parameters or ()):
            hint = f"use {'layer' if 'layer' in (parameters or ()) else 'layer with a method of a layer: grad-cam'}"
            raise UsageError(f"{function.__name__} has no argument {name!r}", hint)
        if name in _loading_arguments() and name not in arguments and name not in (parameters or ()):
            hint = f"pass it to xplain.load_classifier(model, {name}=...), and the classifier to {function.__name__}"
            raise UsageError(f"{function.__name__} has no argument {name!r}", hint)
        similar = get_close_matches(name.lower(), [*arguments, *(parameters or ())], n=1)
        if name in (parameters or ()) or (parameters is not None and not set(similar) & set(arguments)):
            continue
        hint = f"did you mean {similar[0]!r}?" if similar else f"use {', '.join(arguments)}"
        raise UsageError(f"{function.__name__} has no argument {name!r}", hint)


def _loading_arguments() -> Collection[str]:
    """Return the names of what states how a model is loaded, such as its input size."""
    return list(inspect.signature(load_classifier).parameters)[1:]


def check_classifier(classifier: object) -> None:
    """Raise UsageError unless the argument is a classifier."""
    if isinstance(classifier, Classifier):
        return
    kind = type(classifier).__name__
    if find_wrapped_classifier(classifier):
        raise UsageError(f"the classifier is wrapped in {kind}", "pass the result of xplain.load_classifier itself")
    if isinstance(classifier, nn.Module):
        raise UsageError(f"the model {kind} is not a classifier", "wrap it by xplain.load_classifier(model)")
    if isinstance(classifier, str):
        raise UsageError(
            f"the classifier is the text {classifier!r}", f"load it by xplain.load_classifier({classifier!r})"
        )
    if isinstance(classifier, type):
        raise UsageError(
            f"the classifier is the class {classifier.__name__}", f"pass an instance: {classifier.__name__}()"
        )
    raise UsageError(f"the classifier is of type {kind}", "pass the result of xplain.load_classifier")


def check_images(classifier: Classifier, images: object) -> Tensor:
    """Return images on the classifier's device and in its type.

    images: a tensor or a NumPy array.
    Raises UsageError unless they are floating point (B, C, H, W) with B >= 1 and the channels of the classifier, and InputError
    unless all values are finite and in [0, 1], except for rounding noise.
    """
    tensor = _to_tensor(images, "images", READ_HINT)
    _check_floating_batch(tensor, "images", _conversion_hint(tensor))
    _check_channels(classifier, tensor)
    tensor = _to_classifier(classifier, tensor, "images")
    check_range(tensor, "images")
    if not classifier.has_known_channels:
        learn_channels(classifier, tensor)
    return tensor


def check_attributions(classifier: Classifier, attributions: object, *, finite: bool = True) -> Tensor:
    """Return attributions on the classifier's device and in its type.

    attributions: a tensor or a NumPy array. finite: NaN and infinity are errors.
    Raises UsageError unless they are floating point (B, C, H, W) with B >= 1, and InputError unless they are finite.
    """
    tensor = _to_tensor(attributions, "attributions", "pass the values of an Attribution: attribution.values")
    _check_floating_batch(tensor, "attributions", "pass the raw attributions")
    return _to_classifier(classifier, tensor, "attributions", finite=finite)


def check_references(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a method with ``baselines``, ``baseline`` and others as tensors if they are arrays of images.

    All but ``baselines`` get the shape (B or 1, C, H, W). Raises InputError as for images.
    """
    checked = dict(params)
    for name, value in params.items():
        if not name.endswith(("baseline", "baselines")) or not isinstance(value, Tensor | np.ndarray):
            continue
        noun = "baselines" if name == "baselines" else "baseline images"
        tensor = _to_tensor(value, noun, READ_HINT)
        if not tensor.is_floating_point():
            raise UsageError(f"the {noun} are of type {tensor.dtype}, not floating point", RANGE_HINT)
        if not bool(tensor.isfinite().all()):
            raise InputError(f"the {noun} contain NaN or infinity", "pass finite values")
        check_range(tensor, noun)
        checked[name] = tensor[None] if name != "baselines" and tensor.ndim == 3 else tensor
        if name != "baselines" and checked[name].ndim != 4:
            raise UsageError(
                f"the baseline has the shape {tuple(tensor.shape)}", "pass a tensor of shape (C, H, W) or (B, C, H, W)"
            )
    return checked


def check_boxes(boxes: object) -> Tensor:
    """Return boxes as a tensor, from a tensor or a NumPy array.

    Raises UsageError for another type, or if they are not real numbers.
    """
    tensor = _to_tensor(boxes, "boxes", BOXES_HINT)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise UsageError(f"the boxes are of type {tensor.dtype}", BOXES_HINT)
    return tensor


def check_corners(boxes: Tensor) -> None:
    """Raise InputError unless x0 < x1 and y0 < y1 in boxes (B, N, 4), except in those of four NaN, which are padding."""
    boxes = boxes.reshape(-1, 4)
    is_valid = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]) | boxes.isnan().all(dim=1)
    if not bool(is_valid.all()):
        box = tuple(boxes[~is_valid][0].tolist())
        raise InputError(f"invalid box {box}", "pass x0, y0, x1, y1 with x0 < x1 and y0 < y1, or four NaN as padding")


def check_masks(masks: object) -> Tensor:
    """Return masks in float64, from a tensor or a NumPy array.

    Raises UsageError for another type, and InputError unless the values are 0, 1 and NaN.
    """
    tensor = _to_tensor(masks, "masks", MASKS_HINT)
    if tensor.is_complex():
        raise UsageError(f"the masks are of type {tensor.dtype}", MASKS_HINT)
    values = tensor.double()
    is_valid = (values == 0) | (values == 1) | values.isnan()
    if not bool(is_valid.all()):
        raise InputError(f"the masks contain {float(values[~is_valid][0]):g}", MASKS_HINT)
    return values


def check_range(images: Tensor, name: str) -> None:
    """Raise InputError unless the values lie in [0, 1], except for rounding noise and within ``accept_any_range``."""
    if not _any_range.get():
        check_unit_range(images, name)


def check_progress(progress: object) -> None:
    """Raise UsageError unless ``progress`` is a function or None."""
    if progress is not None and not callable(progress):
        raise UsageError(
            f"progress is of type {type(progress).__name__}", "pass a function that takes a number of rows"
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise UsageError unless ``value`` is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(str(value), choices, f"choose from {', '.join(choices)}")
        raise UsageError(f"unknown {name} {value!r}", hint)


def check_score_text(score: object) -> str:
    """Return a score in its full form, see ``parse_score``, of a text or a ContrastScore. Raises UsageError for an unknown one."""
    if isinstance(score, ContrastScore):
        score = str(score)
    try:
        if not isinstance(score, str):
            raise ValueError(score)
        return parse_score(score)
    except ValueError:
        hint = f"use {SCORE_FORMAT}, with G >= 0 and M >= 1"
        if isinstance(score, str) and ":" not in score:
            hint = did_you_mean(score, SCORE_KINDS, hint)
        raise UsageError(f"unknown score {score!r}", hint) from None


def resolve_compute(
    seed: int, precision: Precision, batch_size: int | str, engine: EngineName = "torch"
) -> ComputeOptions:
    """Check the keywords that ``attribute`` and ``measure`` share. Raises UsageError."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise UsageError(f"invalid seed {seed!r}", "use a whole number")
    check_choice("precision", precision, get_args(Precision))
    check_choice("engine", engine, get_args(EngineName))
    return ComputeOptions(precision, parse_batch_size(str(batch_size)), int(seed), engine=engine)


def _to_tensor(value: object, name: str, hint: str) -> Tensor:
    """Return a dense tensor, from a tensor or a NumPy array. hint: how to convert something else."""
    if isinstance(value, np.ndarray):
        return _array_to_tensor(value, name)
    if isinstance(value, Tensor):
        if value.is_meta:
            raise UsageError(f"the {name} are on the meta device and have no values", "move them to cpu or cuda")
        if value.layout is not torch.strided or value.is_nested or value.is_quantized:
            raise UsageError(f"the {name} are not a dense tensor", "use to_dense(), dequantize() or torch.stack")
        return value
    if isinstance(value, list | tuple):
        hint = "use torch.stack on a list of (C, H, W) tensors"
    elif not isinstance(value, str | bytes | PathLike) and not _is_pillow_image(value) and name == "images":
        hint = f"pass a tensor (B, C, H, W); {READ_HINT}"
    raise UsageError(f"the {name} are of type {type(value).__name__}, not a tensor or array", hint)


def _is_pillow_image(value: object) -> bool:
    return type(value).__module__.startswith("PIL.")


def _array_to_tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    """Return a NumPy array as a tensor. Raises UsageError if no tensor has its type."""
    try:
        return torch.tensor(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    except (TypeError, ValueError):
        raise UsageError(f"the {name} are an array of {array.dtype}", "use array.astype('float32')") from None


def _check_floating_batch(tensor: Tensor, name: str, hint: str) -> None:
    """Raise UsageError unless a tensor is floating point (B, C, H, W) and not empty."""
    if tensor.ndim != 4 or not tensor.is_floating_point():
        actual = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
        raise UsageError(f"{name} must be a floating-point tensor of shape (B, C, H, W), got {actual}", hint)
    if not tensor.numel():
        raise UsageError(f"{name} are empty (shape {tuple(tensor.shape)})", "pass at least one image")


def _conversion_hint(images: Tensor) -> str:
    """Return how to make floating-point images (B, C, H, W) of a tensor."""
    hint = "divide 8-bit pixels by 255 and add a batch dimension"
    return f"move the channels first by {_permutation(images)}, {hint}" if _has_channels_last(images) else hint


def _has_channels_last(images: Tensor) -> bool:
    """Return whether a tensor looks like (H, W, C) or (B, H, W, C)."""
    return images.ndim in (3, 4) and images.shape[-1] in (1, 3, 4) and images.shape[-3] not in (1, 3, 4)


def _permutation(images: Tensor) -> str:
    return "images.permute(0, 3, 1, 2)" if images.ndim == 4 else "images.permute(2, 0, 1)"


def _check_channels(classifier: Classifier, images: Tensor) -> None:
    """Raise UsageError unless the images have as many channels as the model."""
    if classifier.has_known_channels and images.shape[1] not in classifier.accepted_channels:
        raise UsageError(*classifier.describe_channel_mismatch(images.shape))


def _to_classifier(classifier: Classifier, tensor: Tensor, name: str, *, finite: bool = True) -> Tensor:
    """Return a tensor on the classifier's device and in its type. Raises InputError if it must be finite and is not."""
    tensor = tensor.clone() if tensor.is_inference() else tensor.detach()
    tensor = tensor.to(classifier.device, classifier.dtype)
    if finite and not bool(tensor.isfinite().all()):
        raise InputError(f"the {name} contain NaN or infinity", "pass finite values")
    return tensor
