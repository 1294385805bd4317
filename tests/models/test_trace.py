"""Layers with weights, found by watching one forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import toys
from xplain.models.efficientnet_lite0 import EfficientNetLite0
from xplain.models.layers import find_weighted_layers


def torchvision_model(name: str) -> nn.Module:
    from torchvision import models

    options = {"init_weights": False} if name in ("inception_v3", "googlenet", "vgg11", "vgg11_bn") else {}
    return models.get_model(name, num_classes=3, **options)


def layers(model: nn.Module, side: int = 64) -> list[tuple[str, ...]]:
    model.eval().requires_grad_(False)
    hooks = {name: len(each._forward_pre_hooks) for name, each in model.named_modules()}
    found = find_weighted_layers(model, lambda: model(torch.rand(1, 3, side, side)))
    assert {name: len(each._forward_pre_hooks) for name, each in model.named_modules()} == hooks
    assert not any(each.requires_grad for each in model.parameters())
    return found


class Odd(nn.Module):
    """Written down in another order than it runs; a weight of its own, a layer that is used without being called, two that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.spare = nn.Linear(4, 2)
        self.early = nn.BatchNorm2d(3)
        self.shift = nn.Parameter(torch.ones(1))
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.auxiliary = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.early(x + self.shift)).mean(dim=(2, 3))[:, None]
        self.auxiliary(x)
        return self.head(self.attention(x, x, x)[0][:, 0])


def test_layers_with_weights_come_in_the_order_in_which_they_run():
    assert layers(toys.small_net().float()) == [("conv1", "norm1"), ("conv2",), ("head",)]
    assert layers(Odd()) == [
        ("", "early"),  # the shift; a norm belongs to what runs before it
        ("inner.0", "inner.1", "inner.3"),
        ("attention", "attention.out_proj"),  # whose forward is never called
        ("head",),
    ]


def test_a_norm_that_runs_first_is_a_layer():
    assert layers(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)), side=2) == [("0",), ("2",)]


def test_a_layer_that_runs_twice_counts_where_it_runs_first():
    shared = nn.Conv2d(3, 3, 1)
    assert layers(nn.Sequential(shared, nn.Conv2d(3, 3, 1), shared, nn.Flatten(1))) == [("0",), ("1",)]


@pytest.mark.parametrize(
    ("name", "side", "count", "first", "last"),
    [
        ("resnet18", 64, 21, ("conv1", "bn1"), ("fc",)),
        ("googlenet", 64, 58, ("conv1.conv", "conv1.bn"), ("fc",)),  # 57 convolutions, no auxiliary heads
        ("densenet121", 64, 121, ("features.conv0", "features.norm0"), ("classifier",)),
    ],
)
def test_layers_of_known_networks(name, side, count, first, last):
    found = layers(torchvision_model(name), side)
    assert len(found) == count
    assert (found[0][:2], found[-1]) == (first, last)


def test_layers_of_the_embedded_network():
    found = layers(EfficientNetLite0())
    assert len(found) == 50
    assert (found[0], found[-1]) == (("stem.0", "stem.1"), ("classifier",))
