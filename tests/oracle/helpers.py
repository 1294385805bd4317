"""Classifiers, comparisons and scores for the tests of the oracle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys

KINDS = ["logit", "prob", "log-prob", "margin"]

SCORE_FORMULAS = {
    "logit": lambda z, t: z[t],
    "prob": lambda z, t: z.exp()[t] / z.exp().sum(),
    "log-prob": lambda z, t: z[t] - z.exp().sum().log(),
    "margin": lambda z, t: z[t] - torch.cat([z[:t], z[t + 1 :]]).max(),
}


def small_classifier(classes: int = 5) -> xplain.Classifier:
    return toys.classifier(toys.small_net(classes=classes), mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])


def make_seeded(make: type[nn.Module]) -> nn.Module:
    """Return a module with the same random weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def is_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    """Return whether two tensors of the same shape agree, relative to the largest expected value or 1."""
    actual, expected = actual.detach(), expected.detach()
    if actual.shape != expected.shape:
        return False
    return bool((actual - expected).abs().max() <= tolerance * max(float(expected.abs().max()), 1))
