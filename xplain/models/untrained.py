"""Untrained networks: what a benchmark needs when weights cannot be downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from xplain.models.classifier import Classifier, Weights
from xplain.models.habits import learn_channels

RANDOM = Path("random")  # given for a file of weights
UNTRAINED = Weights("random")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def load_untrained(build: Callable[[], Classifier]) -> Classifier:
    """What ``build`` makes, initialised from seed 0, its batch norms set to the statistics of noise images.

    Without the statistics activations grow from layer to layer, softmax saturates, and gradients of it vanish. Raises InputError
    where the model does not take images of its size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build().eval()
        learn_channels(classifier)
        _settle(classifier, torch.rand(4, classifier.channels, *classifier.size, dtype=classifier.dtype))
    return classifier


@torch.no_grad()
def _settle(classifier: Classifier, noise: torch.Tensor) -> None:
    """Run once on noise (B, C, H, W) while the batch norms take their statistics from it."""
    norms = [module for module in classifier.modules() if isinstance(module, NORMS) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    classifier(noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
