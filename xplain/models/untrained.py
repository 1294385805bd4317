"""Untrained networks: what a benchmark needs when weights cannot be downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from xplain.models.checkpoints import hash_tensors
from xplain.models.classifier import Classifier, Weights
from xplain.models.inspection import learn_channels

RANDOM = Path("random")  # given for a file of weights
UNTRAINED = Weights("random")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def load_untrained(build: Callable[[], Classifier]) -> Classifier:
    """What ``build`` makes, initialised from seed 0, its batch norms set to the statistics of noise images.

    Without the statistics activations grow from layer to layer, softmax saturates, and gradients of it vanish. Linear layers that begin
    as zeros are drawn too. Raises InputError where the model does not take images of its size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build().eval()
        _draw_heads(classifier)
        learn_channels(classifier)
        _settle(classifier, torch.rand(4, classifier.channels, *classifier.size, dtype=classifier.dtype))
    classifier.weights = replace(UNTRAINED, sha256=hash_tensors(classifier.model))
    return classifier


def _draw_heads(classifier: Classifier) -> None:
    """Draw what begins as zeros, the heads of ViTs and mixers: under them no logit depends on the image, and all maps are zero."""
    for module in classifier.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)  # as their other layers


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
