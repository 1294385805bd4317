"""Inspect a model by a trial run on noise: its input channels, number of classes and the meaning of its output."""

from __future__ import annotations

import torch

from xplain.models.channels import TRIAL_ROWS, make_noise, run_on_noise
from xplain.models.classifier import Classifier
from xplain.models.output_detection import describe_known_output


def inspect_model(classifier: Classifier, channels: int | None = None) -> None:
    """Run the model on noise, and set ``channels``, ``classes``, ``output``, ``reader`` and ``notes``.

    channels: the number of channels of its images, or None if unknown.
    Raises InputError if the model does not accept images of the classifier's size, or returns no logits, and UsageError if its
    output contradicts an option.
    """
    with torch.no_grad():
        output = run_on_noise(classifier, channels)
    if classifier.channels == 1:
        classifier.notes.append("the model has one input channel; images are converted to grayscale")
    elif classifier.channels != 3:
        classifier.notes.append(f"the model has {classifier.channels} input channels")
    known = describe_known_output(output, TRIAL_ROWS, classifier.request)
    if known is not None:
        classifier.set_output(known)
        return
    classifier.detect_output(make_noise(classifier, 1), output)


@torch.no_grad()
def detect_channels(classifier: Classifier) -> None:
    """Set ``channels`` to the number that the model accepts. Raises InputError if none is found."""
    run_on_noise(classifier)
