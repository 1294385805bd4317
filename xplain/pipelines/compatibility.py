"""Determine which methods support a model by running each method on a small image with minimal settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xplain.core.errors import InputError, XplainError
from xplain.core.registry import METHODS, MethodSpec, Spec
from xplain.core.types import Attribution
from xplain.models import Classifier
from xplain.models.channels import SHAPE_ERRORS
from xplain.pipelines.attribution import attribute

# Values that make every method run fast but completely. All other parameters keep their defaults.
MINIMAL_SETTINGS = {
    "steps": 2,
    "samples": 2,
    "masks": 2,
    "classes": 1,
    "attack_steps": 1,
    "copies": 1,
    "intervals": 2,
    "fragments": 1,
    "references_per_image": 1,
    "rounds": 1,
    "channels": 2,
    "ascent": 1,
    "descent": 1,
}
SMALL_SIDE = 64  # in pixels; accepted by most models, with last feature maps larger than 1 x 1


def try_methods(classifier: Classifier) -> Iterator[tuple[str, Attribution | XplainError]]:
    """Yield the name of each method with its attribution of a gray ramp at minimal settings, or the error that it raises.

    A small image is used if the model accepts one. A method that fails is retried at the native input size of the model.
    """
    sizes = list(dict.fromkeys((find_small_size(classifier), classifier.size)))
    for spec in METHODS:
        for size in sizes:
            outcome = _try_method(classifier, spec, size)
            if isinstance(outcome, Attribution):
                break
        yield spec.name, outcome


def find_small_size(classifier: Classifier) -> tuple[int, int]:
    """Return a (height, width) with the model's aspect ratio and a shorter side of SMALL_SIDE.

    Return the native input size if it is not larger or if the model does not accept the small size.
    """
    height, width = classifier.size
    shorter = min(height, width)
    if shorter <= SMALL_SIDE:
        return classifier.size
    size = (round(height * SMALL_SIDE / shorter), round(width * SMALL_SIDE / shorter))
    try:
        with torch.no_grad():
            classifier(_make_gray_ramp(classifier, size))
    except (*SHAPE_ERRORS, InputError):
        return classifier.size
    return size


def _make_gray_ramp(classifier: Classifier, size: tuple[int, int]) -> Tensor:
    """Return one image (1, C, H, W) that is 0.3 at its left edge and 0.7 at its right edge."""
    ramp = torch.linspace(0.3, 0.7, size[1], device=classifier.device, dtype=classifier.dtype)
    return ramp.expand(1, classifier.input_channels, *size).contiguous()


def _try_method(classifier: Classifier, spec: MethodSpec, size: tuple[int, int]) -> Attribution | XplainError:
    image = _make_gray_ramp(classifier, size)
    try:
        return attribute(classifier, image, spec.name, **minimal_settings(spec, size, classifier.input_channels))
    except XplainError as error:
        return error


def minimal_settings(spec: Spec, size: tuple[int, int], channels: int = 3) -> dict[str, Any]:
    """Return the parameters that minimize the run time for an image of ``size`` (height, width)."""
    settings: dict[str, Any] = {}
    for name, parameter in spec.parameters.items():
        if name in MINIMAL_SETTINGS and parameter.kind is int:
            settings[name] = MINIMAL_SETTINGS[name]
    if "stride" in spec.parameters:  # one window that covers the image
        settings |= {"window": max(size), "stride": max(size)}
    if "block" in spec.parameters:  # remove all values in one round
        settings |= {"block": channels * size[0] * size[1]}
    return settings
