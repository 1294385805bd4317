"""Small models whose attributions are known in closed form, and small random networks; all in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import xplain


class Linear(nn.Module):
    """Logits W x + b for images (B, C, H, W); ``weight`` (classes, C, H, W)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight) + self.bias


class Function(nn.Module):
    """Logits by any function of the images; a parameter fixes the type to float64."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class SmallNet(nn.Module):
    """Convolution, batch norm, ReLU, max-pool, convolution, ReLU, mean, linear; evaluation statistics are not trivial."""

    def __init__(
        self, classes: int = 5, *, norm: bool = True, bias: bool = True, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.act1 = activation()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, bias=bias)
        self.act2 = activation()
        self.head = nn.Linear(12, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.norm1(self.conv1(x))))
        return self.head(self.act2(self.conv2(x)).mean(dim=(2, 3)))


def small_net(seed: int = 0, *, scale: float = 3.0, **options) -> nn.Module:
    """A SmallNet with random weights in float64; ``scale`` widens the logits so that probabilities differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallNet(**options).double().eval()
        if isinstance(model.norm1, nn.BatchNorm2d):
            for tensor in (model.norm1.running_mean, model.norm1.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (model.norm1.running_var, model.norm1.weight.data):
                tensor.uniform_(0.5, 1.5)
        model.head.weight.data *= scale
    return model


def classifier(model: nn.Module, **options) -> xplain.Classifier:
    """The module as a classifier on the CPU."""
    return xplain.Classifier(model, name="toy", **options).eval()


def images(count: int = 2, height: int = 8, width: int = 10, seed: int = 1, channels: int = 3) -> Tensor:
    """Random images (count, channels, height, width) in float64, away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, dtype=torch.float64, generator=generator) * 0.8 + 0.1
