"""Models for tests of the command line, loaded as ``python:tests.helpers.factories:NAME``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.helpers.token_networks import OrderedTokens
from tests.helpers.toys import MEAN, STD, Linear, band_net, band_weights, small_net


def tiny() -> nn.Module:
    """Return a network with five named classes on 32 x 32 images, float64."""
    model = small_net(seed=3)
    model.size, model.activation = 32, "softmax"
    model.labels = ["cat", "espresso", "rocket", "astronaut", "nothing"]
    return model


def single() -> nn.Module:
    """Return ``tiny`` in float32."""
    model = tiny().float()
    model.size, model.labels = 32, ["cat", "espresso", "rocket", "astronaut", "nothing"]
    return model


def poisoned(value: float, classes: slice) -> nn.Module:
    """Return ``tiny`` with ``value`` for the logits of these classes if the image is dark on average."""
    model = tiny()
    forward = model.forward

    def poisoned_forward(x: Tensor) -> Tensor:
        logits = forward(x).clone()
        logits[x.mean(dim=(1, 2, 3)) < 0.25, classes] = value
        return logits

    model.forward = poisoned_forward
    return model


def broken() -> nn.Module:
    """Return a network whose logits are NaN if the image is dark on average."""
    return poisoned(torch.nan, slice(None))


def scrambled() -> nn.Module:
    """Return a transformer of 48 x 64 images whose tokens lie in a random order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OrderedTokens((48, 64), "random").eval()
    model.size = (48, 64)
    return model


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
    """Return a network with one logit that is infinite if the image is dark on average."""
    return poisoned(torch.inf, slice(1))


def not_a_model() -> str:
    """Return a text instead of a network."""
    return "no module"


def imagenet_like() -> nn.Module:
    """Return a small untrained network with ImageNet's class names, float64."""
    from xplain.data.class_names import load_imagenet_classes

    model = small_net(seed=4, classes=1000)
    model.size = 32
    model.wnids, model.labels = load_imagenet_classes()
    return model


def smooth() -> nn.Module:
    """Return a network with five named classes, and SiLU instead of ReLU, float64."""
    model = small_net(seed=5, activation=nn.SiLU)
    model.size = 32
    model.labels = ["cat", "espresso", "rocket", "astronaut", "nothing"]
    return model


def untold() -> nn.Module:
    """Return a network that does not declare the activation of its outputs."""
    model = small_net(seed=3)
    model.size = 32
    return model


def oblong() -> nn.Module:
    """Return a network with five classes on images of 24 x 40, float64."""
    model = small_net(seed=6)
    model.size = (24, 40)
    return model


def wants_eight() -> nn.Module:
    """Return a network for images of 8 x 8 that does not declare its size."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))


def soft() -> nn.Module:
    """Return a network that ends in a softmax, float64."""
    model = nn.Sequential(small_net(seed=7), nn.Softmax(dim=1))
    model.size = 32
    return model


def normalised() -> nn.Module:
    """Return a network with five classes on images of 28 x 32 (224 steps of four pixels), normalized by MEAN and STD, float64."""
    model = small_net(seed=8)
    model.size, model.mean, model.std = (28, 32), MEAN, STD
    return model


def one_logit() -> nn.Module:
    """Return (-z, z) of the first logit z of ``tiny``."""
    return _with_outputs(lambda logits: torch.cat([-logits[:, :1], logits[:, :1]], dim=1), ["no cat", "cat"])


def one_value() -> nn.Module:
    """Return the first logit of ``tiny`` as a value."""
    model = _with_outputs(lambda logits: logits[:, :1] * 3, [])
    model.activation = "none"
    return model


def _with_outputs(convert: Callable[[Tensor], Tensor], labels: list[str]) -> nn.Module:
    """Return ``tiny`` with other outputs."""
    model = tiny()
    forward = model.forward
    model.forward = lambda x: convert(forward(x))
    model.labels = labels
    return model


def linear_bands(channels: int = 4) -> nn.Module:
    """Return a linear model of three named classes on images of 16 x 16 pixels, with weights ``toys.band_weights``."""
    model = Linear(band_weights(channels))
    model.size, model.labels = 16, ["field", "water", "city"]
    return model


def linear_12_bands() -> nn.Module:
    """Return ``linear_bands`` of 12 channels."""
    return linear_bands(12)


def conv_bands() -> nn.Module:
    """Return a convolutional network of four channels on images of 16 x 16 pixels, float32."""
    return band_net(4).float()
