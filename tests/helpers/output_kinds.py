"""Networks in float64 for each kind of output."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.data.preprocessing import Preprocessing
from xplain.models.outputs import OutputKind


def with_output(model: nn.Module, activation: str, classes: int | None = None, **options: Any) -> xplain.Classifier:
    """Return the module as a classifier with a kind of output."""
    classifier = toys.classifier(model, preprocessing=Preprocessing.for_size(12))
    classifier.output = OutputKind(activation, **options)
    classifier.classes = classes
    return classifier


def with_heads(model: nn.Module, scale: float) -> nn.Module:
    """Return a copy of a network with one logit z whose last layer returns (-scale z, scale z)."""
    copied = copy.deepcopy(model)
    head = nn.Linear(copied.head.in_features, 2).double()
    head.weight.data = scale * torch.cat([-copied.head.weight.data, copied.head.weight.data])
    head.bias.data = scale * torch.cat([-copied.head.bias.data, copied.head.bias.data])
    copied.head = head
    return copied.eval()


def linear(weight: Tensor, bias: float = 0.0) -> nn.Module:
    """Return the logits (-z, z) of z = weight · x + bias; weight (C, H, W)."""
    return toys.Linear(torch.stack([-weight, weight]), torch.tensor([-bias, bias], dtype=weight.dtype))


def value(weight: Tensor, bias: float = 0.0) -> nn.Module:
    """Return one value weight · x + bias."""
    return toys.Linear(weight[None], torch.tensor([bias], dtype=weight.dtype))
