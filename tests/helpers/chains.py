"""Chains of linear layers and ReLUs as arrays (for the literal references) and as classifiers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys

SIDE = (3, 2, 2)  # channels, height, width of the images


def chain(seed: int = 0, *, bias: float = 0.3, widths: tuple[int, ...] = (12, 9, 7, 4)) -> list[tuple]:
    """Random layers, ReLUs between them."""
    draw = np.random.default_rng(seed)
    layers: list[tuple] = []
    for inputs, outputs in pairwise(widths):
        layers += [("linear", draw.normal(size=(outputs, inputs)) / 2, bias * draw.normal(size=outputs)), ("relu",)]
    return layers[:-1]


def as_classifier(layers: list[tuple]) -> xplain.Classifier:
    """The same layers as modules behind a flattening; one in-place ReLU is used throughout."""
    relu = nn.ReLU(inplace=True)
    modules: list[nn.Module] = [nn.Flatten()]
    for layer in layers:
        if layer[0] == "relu":
            modules.append(relu)
            continue
        linear = nn.Linear(layer[1].shape[1], layer[1].shape[0]).double()
        linear.weight.data, linear.bias.data = torch.from_numpy(layer[1].copy()), torch.from_numpy(layer[2].copy())
        modules.append(linear)
    return toys.classifier(nn.Sequential(*modules))


def images(count: int = 3) -> Tensor:
    """Images (count, 3, 2, 2) in float64."""
    return toys.images(count, 2, 2)


def scalar(function, *values: float) -> tuple[xplain.Classifier, Tensor]:
    """A function of scalars (rows,) as the only logit, and the one-row image that holds the values in one channel."""
    made = toys.Function(lambda x: function(*x[:, 0, 0].unbind(dim=1)[: len(values)])[:, None])
    image = torch.tensor(values, dtype=torch.float64)[None, None, None]
    return toys.classifier(made, mean=(0.0,), std=(1.0,)), image


def explain(name: str, function, *values: float, **settings) -> list[float]:
    """The attributions of the values."""
    made, image = scalar(function, *values)
    return xplain.attribute(made, image, name, target=0, **settings).values.flatten().tolist()
