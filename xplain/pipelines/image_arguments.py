"""The images and the model that ``explain`` and ``evaluate`` of the library receive."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xplain.core.errors import UsageError
from xplain.data.image_values import make_source
from xplain.data.sources import ImageSource, find_images
from xplain.models import Classifier, load_classifier
from xplain.models.classifier import find_wrapped_classifier
from xplain.models.custom_models import declares_size
from xplain.models.hugging_face_modules import is_hugging_face
from xplain.pipelines.arguments import check_classifier

ModelLike = Classifier | nn.Module | Callable[[Any], Any] | str
KEPT_MODELS = 2  # of a library, which were loaded by name


def resolve_classifier(model: object, device: str | torch.device = "auto", images: object = None) -> Classifier:
    """Return a classifier, or load that of a name, a module or a function.

    A model that a name without prefix loads is kept, and used again by the next call.
    images: a batch (B, C, H, W) for the model; a module or function that does not state its input size is loaded for that of the batch.
    Raises UsageError for anything else.
    """
    if isinstance(model, str) and ":" not in model:
        return _load_once(model, str(device))
    is_model = isinstance(model, str | nn.Module) or (callable(model) and not isinstance(model, type))
    if is_model and find_wrapped_classifier(model) is None:
        return load_classifier(model, device=device, size=_find_size(model, images))  # type: ignore[arg-type]  # checked above
    check_classifier(model)
    assert isinstance(model, Classifier)
    return model


def _find_size(model: object, images: object) -> tuple[int, int] | None:
    """Return the height and width of a batch; None without one, and for a model that states or knows its size."""
    if isinstance(model, str) or (isinstance(model, nn.Module) and (declares_size(model) or is_hugging_face(model))):
        return None
    shape: tuple[int, ...] = tuple(images.shape) if isinstance(images, np.ndarray | Tensor) else ()
    return (shape[2], shape[3]) if len(shape) == 4 and min(shape) > 0 else None


@lru_cache(maxsize=KEPT_MODELS)
def _load_once(name: str, device: str) -> Classifier:
    return load_classifier(name, device=device)


def find_sources(classifier: Classifier, images: object) -> tuple[list[ImageSource], bool]:
    """Return the images of an argument, and whether it is a single one.

    images: one image as ``make_source`` accepts it, a list of images, directories and glob patterns, or a batch (four axes).
    Raises UsageError if there is none, or for another type.
    """
    channels = known_channels(classifier)
    if isinstance(images, list | tuple):
        return list(_find_listed(images, channels)), False
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(_find_listed(list(images), channels)), False
    if _names_several(images):
        raise UsageError(f"{fspath(images)!r} names several images", f"pass a list: [{fspath(images)!r}]")  # type: ignore[call-overload]
    return [make_source(images, "image", channels)], True


def known_channels(classifier: Classifier) -> Collection[int]:
    """Return the numbers of channels that model input may have; empty if they are not known yet."""
    return classifier.accepted_channels if classifier.has_known_channels else ()


def _find_listed(images: Sequence[object], channels: Collection[int]) -> Iterator[ImageSource]:
    if not len(images):
        raise UsageError("there are no images", "pass at least one image")
    for index, image in enumerate(images):
        if _names_several(image):
            yield from find_images([fspath(image)])  # type: ignore[call-overload]
        else:
            yield make_source(image, f"image {index}", channels)


def _names_several(image: object) -> bool:
    """Return whether an image is a directory, or a glob pattern that is no file."""
    if not isinstance(image, str | PathLike):
        return False
    path = fspath(image)
    if not isinstance(path, str) or "\0" in path:
        return False
    return os.path.isdir(path) or (glob.has_magic(path) and not os.path.exists(path))  # noqa: PTH110, PTH112  (never raise)
