"""Small networks with all kinds of outputs, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys

SIZE = (8, 10)
X = toys.images()


class Ending(nn.Module):
    """A network followed by a function of its logits."""

    def __init__(self, inner: nn.Module, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner = inner
        self.function = function
        self.size = SIZE

    def forward(self, x: Tensor) -> object:
        return self.function(self.inner(x))


def body(outputs: int, *, sign: int = 1) -> nn.Module:
    """Return a convolutional network with ``outputs`` logits that are not small; sign: -1 negates them in the last layer."""
    model = toys.small_net(seed=5, scale=6.0, classes=outputs, norm=False)
    with torch.no_grad():
        model.head.weight.mul_(sign)
        model.head.bias.mul_(sign)
    model.size = SIZE
    return model


def followed_by(outputs: int, module: nn.Module) -> nn.Module:
    """Return ``body`` and an activation module in a Sequential."""
    model = nn.Sequential(body(outputs), module)
    model.size = SIZE
    return model


def load(model: nn.Module, **options) -> xplain.Classifier:
    """Return a module as a classifier on the CPU."""
    return xplain.load_classifier(model, device="cpu", **options)
