"""Models for the command line's tests, called as ``python:tests.helpers.factories:NAME``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.helpers.toys import MEAN, STD, small_net


def tiny() -> nn.Module:
    """Five named classes on 32 x 32 images, float64."""
    model = small_net(seed=3)
    model.size = 32
    model.labels = ["cat", "espresso", "rocket", "astronaut", "nothing"]
    return model


def single() -> nn.Module:
    """``tiny`` in float32."""
    model = tiny().float()
    model.size, model.labels = 32, ["cat", "espresso", "rocket", "astronaut", "nothing"]
    return model


def poisoned(value: float, classes: slice) -> nn.Module:
    """``tiny`` with another value for these logits wherever the image is dark on average."""
    model = tiny()
    forward = model.forward

    def other(x: Tensor) -> Tensor:
        logits = forward(x).clone()
        logits[x.mean(dim=(1, 2, 3)) < 0.25, classes] = value
        return logits

    model.forward = other
    return model


def broken() -> nn.Module:
    """Logits that are NaN wherever the image is dark on average."""
    return poisoned(torch.nan, slice(None))


class Failure:
    """When the networks of ``failing`` fail: from forward pass number ``at`` on, with ``error``. calls: number of passes so far."""

    calls = 0
    at: int | None = None
    error: Exception = RuntimeError()


def failing() -> nn.Module:
    """Return ``tiny`` with forward passes that fail according to ``Failure``."""
    model = tiny()
    forward = model.forward

    def forward_or_fail(x: Tensor) -> Tensor:
        Failure.calls += 1
        if Failure.at is not None and Failure.calls >= Failure.at:
            raise Failure.error
        return forward(x)

    model.forward = forward_or_fail
    return model


def infinite() -> nn.Module:
    """A network with one logit that is infinite wherever the image is dark on average."""
    return poisoned(torch.inf, slice(1))


def not_a_model() -> str:
    """Something else."""
    return "no module"


def imagenet_like() -> nn.Module:
    """A small untrained network with ImageNet's class names, float64."""
    from xplain.data.class_names import load_imagenet_classes

    model = small_net(seed=4, classes=1000)
    model.size = 32
    model.wnids, model.labels = load_imagenet_classes()
    return model


def smooth() -> nn.Module:
    """Five named classes, with SiLU for ReLU, float64."""
    model = small_net(seed=5, activation=nn.SiLU)
    model.size = 32
    model.labels = ["cat", "espresso", "rocket", "astronaut", "nothing"]
    return model


def oblong() -> nn.Module:
    """Five classes on images of 24 x 40, float64."""
    model = small_net(seed=6)
    model.size = (24, 40)
    return model


def wants_eight() -> nn.Module:
    """A network for images of 8 x 8 that does not say so."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))


def soft() -> nn.Module:
    """A network that ends in a softmax, float64."""
    model = nn.Sequential(small_net(seed=7), nn.Softmax(dim=1))
    model.size = 32
    return model


def normalised() -> nn.Module:
    """Five classes on images of 28 x 32 (224 steps of four pixels), normalised by ``toys.MEAN`` and ``toys.STD``, float64."""
    model = small_net(seed=8)
    model.size, model.mean, model.std = (28, 32), MEAN, STD
    return model
