"""Inspect and check a model when it is loaded, or at the size of its first images."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.errors import MODEL_ERRORS, InputError, XplainError, device_error, emit_note, first_line
from xplain.core.rng import preserve_random_state
from xplain.data.preprocessing import Preprocessing
from xplain.models.channels import ChannelError
from xplain.models.classifier import Classifier
from xplain.models.inspection import inspect_model
from xplain.models.normalization import settle_normalization
from xplain.models.trials import check_model


def inspect_loaded(classifier: Classifier, *, required: bool, custom: bool, checked: bool) -> None:
    """Inspect and check the model, and warn with its notes.

    required: raise every InputError of the inspection, not only a ChannelError. Otherwise inspect the model again when the first images
        are known: they may have another size than assumed.
    custom: mean and std are attributes of the network. checked: run ``check_model``.
    """
    try:
        with preserve_random_state():
            inspect_model(classifier)
    except ChannelError:
        raise
    except InputError:
        if required:
            raise
        classifier.pending_inspection = inspect_first_images
    except MODEL_ERRORS as error:
        if device_error(error):
            raise
        if required:
            raise InputError(
                f"{classifier.name} failed on noise images ({type(error).__name__}: {first_line(error)})",
                "check the model with images of this size",
            ) from error
        classifier.pending_inspection = inspect_first_images
    else:
        if custom:
            settle_normalization(classifier)
        if checked:
            classifier.notes += check_model(classifier)
    for note in classifier.notes:
        emit_note(note)


@torch.inference_mode(mode=False)
def inspect_first_images(classifier: Classifier, images: Tensor) -> None:
    """Inspect and check a model whose size was unknown, at the size of the first images (B, C, H, W), and warn with new notes.

    Raises InputError or UsageError if the output of the model has no logits. If the model does not accept the images, it is inspected
    with the next ones, and the prediction raises its error.
    """
    known, preprocessing = classifier.notes, classifier.preprocessing
    classifier.notes = list(known)
    classifier.preprocessing = Preprocessing.for_size((images.shape[-2], images.shape[-1]))
    try:
        with preserve_random_state():
            inspect_model(classifier, _find_channels(classifier, images))
    except (InputError, *MODEL_ERRORS) as error:
        if known_error := device_error(error):
            raise known_error from None
        classifier.notes, classifier.preprocessing = known, preprocessing
        classifier.pending_inspection = inspect_first_images
        _raise_output_error(classifier, images)
        return
    classifier.assumptions.discard("size")
    settle_normalization(classifier)
    classifier.notes += check_model(classifier)
    for note in classifier.notes:
        if note not in known:
            emit_note(note)
    classifier.check_class_names()


def _find_channels(classifier: Classifier, images: Tensor) -> int | None:
    """Return the number of channels of the network, or None to try several for RGB images."""
    if classifier.has_known_channels:
        return classifier.channels
    return None if images.shape[1] == 3 else images.shape[1]


def _raise_output_error(classifier: Classifier, images: Tensor) -> None:
    """Raise the error of a model that accepts the images and whose output cannot be used."""
    try:
        classifier.detect_output(images)
    except XplainError:
        raise
    except MODEL_ERRORS as error:
        if known_error := device_error(error):
            raise known_error from None
