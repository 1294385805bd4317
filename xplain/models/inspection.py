"""Inspect a model by a trial run on noise: its input channels, number of classes and the meaning of its output."""

from __future__ import annotations

import torch

from xplain.core.errors import InputError, device_error, first_line
from xplain.models.classifier import Classifier
from xplain.models.output_detection import describe_known_output

# Errors that models raise for an input of a shape that they do not accept.
SHAPE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError)
TRIAL_ROWS = 2


def inspect_model(classifier: Classifier) -> None:
    """Run the model on noise, and set ``channels``, ``classes``, ``output``, ``reader`` and ``notes``.

    Raises InputError if the model does not accept images of the classifier's size, or returns no logits, and UsageError if its
    output contradicts an option.
    """
    with torch.no_grad():
        output = _run_on_noise(classifier)
    if classifier.channels == 1:
        classifier.notes.append("the model has one input channel; images are converted to grayscale")
    known = describe_known_output(output, TRIAL_ROWS, classifier.request)
    if known is not None:
        classifier.set_output(known)
        return
    images = torch.zeros((1, 3, *classifier.size), dtype=classifier.dtype, device=classifier.device)
    classifier.detect_output(images)


@torch.no_grad()
def detect_channels(classifier: Classifier) -> None:
    """Set ``channels`` to the number that the model accepts. Raises InputError if it accepts neither 3 nor 1."""
    _run_on_noise(classifier)


def _run_on_noise(classifier: Classifier) -> object:
    """Return the network's output for noise, and set ``channels``.

    The channels of the normalization are tried first, then the other number: a single mean may also apply to three channels.
    """
    noise = torch.rand(
        (TRIAL_ROWS, 3, *classifier.size), generator=torch.Generator().manual_seed(0), dtype=classifier.dtype
    )
    noise = noise.to(classifier.device)
    expected = len(classifier.mean)
    errors = []
    for channels in (expected, 4 - expected):
        classifier.channels = channels
        try:
            return classifier.run_network(noise)
        except SHAPE_ERRORS as error:
            if device_error(error):
                raise
            errors.append(error)
    classifier.channels = expected
    raise size_error(classifier.name, classifier.size, errors[0])


def size_error(name: str, size: tuple[int, int], error: Exception) -> InputError:
    """Return the InputError of a model that does not accept images of this height and width.

    error: the exception that the model raised; its first line becomes part of the message.
    """
    return InputError(
        f"{name} does not accept images of {size[0]} x {size[1]} pixels ({first_line(error)})",
        "use another --image-size",
    )
