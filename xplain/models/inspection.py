"""Inspect a model by a trial run on noise: its input channels, number of classes and type of output."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.errors import InputError, device_error, first_line
from xplain.models.classifier import Classifier, find_logits

# Errors that models raise for an input of a shape that they do not accept.
SHAPE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError)
SUM_TOLERANCE = 1e-3


@torch.no_grad()
def inspect_model(classifier: Classifier) -> None:
    """Run the model on two images of noise, and set ``channels``, ``classes``, ``probabilities`` and ``notes``.

    Raises InputError if the model does not accept images of the classifier's size, or returns no logits.
    """
    output = _run_on_noise(classifier)
    logits, key = find_logits(output)
    classifier.classes = logits.shape[1]
    notes = classifier.notes
    if key and not type(output).__module__.startswith("transformers."):  # whose outputs have several entries
        notes.append(f"the model returns a {type(output).__name__}; using its entry {key!r} as the logits")
    if classifier.channels == 1:
        notes.append("the model has one input channel; images are converted to grayscale")
    if logits.shape[1] == 1:
        notes.append("the model has a single output, so its softmax probability is always 1 and carries no information")
    elif _is_softmax_output(logits):
        classifier.probabilities = True
        notes.append("the model output is a softmax; using its logarithm as the logits")


@torch.no_grad()
def detect_channels(classifier: Classifier) -> None:
    """Set ``channels`` to the number that the model accepts. Raises InputError if it accepts neither 3 nor 1."""
    _run_on_noise(classifier)


def _run_on_noise(classifier: Classifier) -> object:
    """Return the network's output for noise, and set ``channels``.

    The channels of the normalization are tried first, then the other number: a single mean may also apply to three channels.
    """
    noise = torch.rand((2, 3, *classifier.size), generator=torch.Generator().manual_seed(0), dtype=classifier.dtype)
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


def _is_softmax_output(output: Tensor) -> bool:
    """Whether all values are non-negative and every row sums to 1."""
    sums = output.double().sum(dim=1)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
