"""Chains of linear layers and ReLUs, as arrays for the literal references and as classifiers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys


def chain(seed: int = 0, *, bias: float = 0.3, widths: tuple[int, ...] = (12, 9, 7, 4)) -> list[tuple]:
    """Return random linear layers with ReLUs between them."""
    rng = np.random.default_rng(seed)
    layers: list[tuple] = []
    for inputs, outputs in pairwise(widths):
        weight = rng.normal(size=(outputs, inputs)) / 2
        layers += [("linear", weight, bias * rng.normal(size=outputs)), ("relu",)]
    return layers[:-1]


def as_classifier(layers: list[tuple]) -> xplain.Classifier:
    """Return the layers as modules after a flatten layer; they share one in-place ReLU."""
    relu = nn.ReLU(inplace=True)
    modules: list[nn.Module] = [nn.Flatten()]
    for layer in layers:
        if layer[0] == "relu":
            modules.append(relu)
            continue
        linear = nn.Linear(layer[1].shape[1], layer[1].shape[0]).double()
        linear.weight.data = torch.from_numpy(layer[1].copy())
        linear.bias.data = torch.from_numpy(layer[2].copy())
        modules.append(linear)
    return toys.classifier(nn.Sequential(*modules))


def images(count: int = 3) -> Tensor:
    """Return images (count, 3, 2, 2) in float64."""
    return toys.images(count, 2, 2)


def scalar_classifier(function, *values: float) -> tuple[xplain.Classifier, Tensor]:
    """Return a classifier whose logit is a function of scalars (rows,), and the image of one row that holds the values."""
    model = toys.Function(lambda x: function(*x[:, 0, 0].unbind(dim=1)[: len(values)])[:, None])
    image = torch.tensor(values, dtype=torch.float64)[None, None, None]
    return toys.classifier(model, mean=(0.0,), std=(1.0,)), image


def explain(name: str, function, *values: float, **settings) -> list[float]:
    """Return the attributions of the values."""
    classifier, image = scalar_classifier(function, *values)
    with toys.any_range():
        return xplain.attribute(classifier, image, name, target=0, **settings).values.flatten().tolist()
