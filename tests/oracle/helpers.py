"""Classifiers, comparisons and scores for the tests of the oracle."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys

SMALL_SIZE = 16  # of the images of ``SmallNetwork``, in pixels
KINDS = ["logit", "prob", "log-prob", "margin"]

SCORE_FORMULAS = {
    "logit": lambda z, t: z[t],
    "prob": lambda z, t: z.exp()[t] / z.exp().sum(),
    "log-prob": lambda z, t: z[t] - z.exp().sum().log(),
    "margin": lambda z, t: z[t] - torch.cat([z[:t], z[t + 1 :]]).max(),
}


class SmallNetwork(nn.Module):
    """A network with the operations whose backward passes are written out: poolings, groups, strides and an addition in place."""

    size, activation = SMALL_SIZE, "softmax"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.body = nn.Conv2d(8, 8, 3, 1, 1, groups=4)
        self.clip = nn.ReLU6(inplace=True)
        self.last = nn.Linear(8 * 4, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        y = self.clip(self.body(x))
        y += x
        return self.last(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))


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


def notes_of(function, *arguments, **options):
    """Return the result of a function and the notes that it emits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return result, [str(warning.message) for warning in caught]
