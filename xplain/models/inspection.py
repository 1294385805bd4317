"""What a model is found to do with two images: the channels it takes, how many classes it knows, and what it returns."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.errors import InputError, device_error, first_line
from xplain.models.classifier import Classifier, find_logits

SHAPE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError, NotImplementedError)
SUM_TOLERANCE = 1e-3


@torch.no_grad()
def inspect_model(classifier: Classifier) -> None:
    """Set ``channels``, ``classes``, ``probabilities`` and ``notes`` by the model's answer to two images of noise.

    Raises InputError when the model takes no images of the classifier's size, or returns no logits.
    """
    output = _answer(classifier)
    logits, place = find_logits(output)
    if place:
        classifier.notes.append(f"the model returns a {type(output).__name__}; its {place!r} is taken as the logits")
    if classifier.channels == 1:
        classifier.notes.append("the model takes one channel: it is given the grey value of the pixels")
    classifier.classes = logits.shape[1]
    if logits.shape[1] == 1:
        classifier.notes.append("the model has one output: its softmax is always 1, and probabilities say nothing")
    elif is_probability(logits):
        classifier.probabilities = True
        classifier.notes.append("the model ends in a softmax: the logarithm of its output stands for the logits")


@torch.no_grad()
def detect_channels(classifier: Classifier) -> None:
    """Set ``channels`` by what the model takes. Raises InputError as ``inspect_model``."""
    _answer(classifier)


def _answer(classifier: Classifier) -> object:
    """What the model returns for noise of the channels that its normalisation speaks for or, where it refuses those, of the others."""
    noise = torch.rand((2, 3, *classifier.size), generator=torch.Generator().manual_seed(0), dtype=classifier.dtype)
    noise = noise.to(classifier.device)
    usual = len(classifier.mean)  # one number may also stand for three channels
    refusals = []
    for classifier.channels in (usual, 4 - usual):
        try:
            return classifier.run_network(noise)
        except SHAPE_ERRORS as error:
            if device_error(error):
                raise
            refusals.append(error)
    classifier.channels = usual
    raise size_error(classifier.name, classifier.size, refusals[0])


def size_error(name: str, size: tuple[int, int], error: Exception) -> InputError:
    """An InputError that says which height and width a model does not take, and the first line of why."""
    return InputError(
        f"{name} does not take images of {size[0]} x {size[1]} ({first_line(error)})", "give another --image-size"
    )


def is_probability(output: Tensor) -> bool:
    """Rows that are not negative and sum to 1."""
    sums = output.double().sum(dim=1)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
