"""A small network in float32, on the emulated device and on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys

SIDE = 16


def make_network() -> nn.Module:
    """Return a convolutional network of five classes with a batch norm, in float32."""
    network = toys.small_net().float()
    network.size = SIDE
    return network


def load(device: str = "cuda") -> xplain.Classifier:
    """Return the network as a classifier."""
    return xplain.load_classifier(make_network(), device, activation="softmax")


def make_images(count: int = 2) -> Tensor:
    """Return random images (count, 3, SIDE, SIDE) on the CPU."""
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
