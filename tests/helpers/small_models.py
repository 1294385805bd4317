"""Small convolutional networks with other outputs and channels than three-channel softmax classifiers, loaded as
``python:tests.helpers.small_models:NAME``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

SIDE = 64


def one_logit() -> nn.Module:
    """Return a network with one logit, of class 1 against class 0."""
    return _convolutions(outputs=1, activation="sigmoid")


def one_probability() -> nn.Module:
    """Return a network with one output that ends in a sigmoid."""
    return _convolutions(outputs=1, end=nn.Sigmoid())


def multi_label() -> nn.Module:
    """Return a network with the logits of four independent labels."""
    return _convolutions(outputs=4, activation="sigmoid")


def one_channel() -> nn.Module:
    """Return a classifier of gray images."""
    return _convolutions(channels=1)


def four_channels() -> nn.Module:
    """Return a classifier of images with four bands."""
    return _convolutions(channels=4)


def twelve_channels() -> nn.Module:
    """Return a classifier of images with twelve bands."""
    return _convolutions(channels=12)


def _convolutions(
    channels: int = 3, outputs: int = 5, activation: str = "softmax", end: nn.Module | None = None
) -> nn.Module:
    """Return a network of three convolutions with batch normalization, always with the same random weights."""
    layers: list[nn.Module] = []
    widths = [channels, 8, 16, 24]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        network = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, outputs), *([end] if end else [])
        )
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    network.size = SIDE
    if end is None:
        network.activation = activation
    return network.eval()


def maxvit() -> nn.Module:
    """Return a small MaxViT of torchvision, whose windows require images of one size."""
    from torchvision.models import MaxVit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MaxVit(
            input_size=(256, 256),
            stem_channels=16,
            partition_size=4,
            block_channels=[16, 24, 32, 48],
            block_layers=[1, 1, 1, 1],
            head_dim=8,
            stochastic_depth_prob=0.0,
            num_classes=5,
        )
    network.size, network.activation = 256, "softmax"
    return network.eval()
