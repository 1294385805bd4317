"""Inspect and check a model when it is loaded, or at the size of its first images."""

from __future__ import annotations

from torch import Tensor

from xplain.core.errors import MODEL_ERRORS, InputError, convert_device_errors, device_error, emit_note, first_line
from xplain.core.rng import preserve_random_state
from xplain.data.preprocessing import Preprocessing
from xplain.models.arithmetic import reproducible_arithmetic
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
    with reproducible_arithmetic(classifier.device):
        _inspect_on_noise(classifier, required=required, custom=custom, checked=checked)
    for note in classifier.notes:
        emit_note(note)


def _inspect_on_noise(classifier: Classifier, *, required: bool, custom: bool, checked: bool) -> None:
    """Inspect and check the model, see ``inspect_loaded``."""
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
        if device_error(error):
            raise
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


def inspect_first_images(classifier: Classifier, images: Tensor) -> None:
    """Inspect and check a model whose size was unknown, at the size of the first images (B, C, H, W), and warn with new notes.

    If the model does not accept the images, its prediction raises the error.
    """
    if not classifier.awaits_images:
        return
    known, preprocessing = list(classifier.notes), classifier.preprocessing
    classifier.preprocessing = Preprocessing.for_size((images.shape[-2], images.shape[-1]))
    with reproducible_arithmetic(classifier.device), convert_device_errors():
        try:
            with preserve_random_state():
                inspect_model(classifier)
        except (InputError, *MODEL_ERRORS) as error:
            if device_error(error):
                raise
            classifier.preprocessing = preprocessing
            return
        classifier.awaits_images = False
        settle_normalization(classifier)
        classifier.notes += check_model(classifier)
    for note in classifier.notes:
        if note not in known:
            emit_note(note)
    classifier.check_class_names()
