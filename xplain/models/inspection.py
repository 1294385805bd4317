"""Inspect a model by a trial run on noise: its input channels, number of classes and type of output."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.models.channels import run_on_noise
from xplain.models.classifier import Classifier, find_logits

SUM_TOLERANCE = 1e-3


@torch.no_grad()
def inspect_model(classifier: Classifier) -> None:
    """Run the model on two images of noise, and set ``channels``, ``classes``, ``probabilities`` and ``notes``.

    Raises InputError if the model does not accept images of the classifier's size, or returns no logits.
    """
    output = run_on_noise(classifier)
    logits, key = find_logits(output)
    classifier.classes = logits.shape[1]
    notes = classifier.notes
    if key:
        notes.append(f"the model returns a {type(output).__name__}; using its entry {key!r} as the logits")
    if classifier.channels == 1:
        notes.append("the model has one input channel; images are converted to grayscale")
    elif classifier.channels != 3:
        notes.append(f"the model has {classifier.channels} input channels")
    if logits.shape[1] == 1:
        notes.append("the model has a single output, so its softmax probability is always 1 and carries no information")
    elif _is_softmax_output(logits):
        classifier.probabilities = True
        notes.append("the model output is a softmax; using its logarithm as the logits")


@torch.no_grad()
def detect_channels(classifier: Classifier) -> None:
    """Set ``channels`` to the number that the model accepts. Raises InputError if none is found."""
    run_on_noise(classifier)


def _is_softmax_output(output: Tensor) -> bool:
    """Whether all values are non-negative and every row sums to 1."""
    sums = output.double().sum(dim=1)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
