"""What a model is found to do with two images: the channels it takes, how many classes it knows, and what it returns."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.errors import InputError, device_error
from xplain.models.classifier import Classifier
from xplain.models.logits import find_logits

REFUSALS = (RuntimeError, AssertionError, ValueError, IndexError, NotImplementedError)
SUM_TOLERANCE = 1e-3


@torch.no_grad()
def learn_habits(classifier: Classifier) -> None:
    """Set ``channels``, ``classes``, ``probabilities`` and ``notes`` by the model's answer to two images of noise.

    Raises InputError when the model takes no images of the classifier's size, or returns no logits.
    """
    output, logits = _answer(classifier)
    place = find_logits(output)[1]
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


def _answer(classifier: Classifier) -> tuple[object, Tensor]:
    """What the model returns for noise, with three channels or, where it refuses those, with one."""
    noise = torch.rand((2, 3, *classifier.size), generator=torch.Generator().manual_seed(0), dtype=classifier.dtype)
    noise = noise.to(classifier.device)
    try:
        output = classifier.run(noise)
    except REFUSALS as error:
        if device_error(error):
            raise
        if len(classifier.mean) == 1:
            raise _refusal(classifier, error) from None
        classifier.channels = 1
        try:
            output = classifier.run(noise)
        except REFUSALS as second:
            if device_error(second):
                raise
            classifier.channels = 3
            raise _refusal(classifier, error) from None
    return output, find_logits(output)[0]


def _refusal(classifier: Classifier, error: Exception) -> InputError:
    height, width = classifier.size
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{classifier.name} does not take images of {height} x {width} ({reason})", "give another --image-size"
    )


def is_probability(output: Tensor) -> bool:
    """Rows that are not negative and sum to 1."""
    sums = output.double().sum(dim=1)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
