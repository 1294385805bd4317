"""Layers found by watching one forward: the last spatial one, and those with weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests import toys
from xplain.errors import InputError
from xplain.models.lite0 import EfficientNetLite0
from xplain.models.trace import last_spatial_layer, weighted_layers


@torch.no_grad()
def found(model: nn.Module, side: int = 64) -> str:
    model.eval()
    return last_spatial_layer(model, lambda: model(torch.rand(1, 3, side, side)))


def torchvision_model(name: str) -> nn.Module:
    from torchvision import models

    options = {"init_weights": False} if name in ("inception_v3", "googlenet", "vgg11", "vgg11_bn") else {}
    return models.get_model(name, num_classes=3, **options)


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        ("resnet18", "layer4", 64),
        ("vgg11", "features.19", 64),  # the ReLU before the last pooling
        ("vgg11_bn", "features.27", 64),
        ("alexnet", "features.11", 96),
        ("inception_v3", "Mixed_7c", 139),
        ("googlenet", "inception5b", 64),
        ("densenet121", "features", 64),
        ("mobilenet_v3_small", "features", 64),
        ("mobilenet_v2", "features", 64),
        ("shufflenet_v2_x0_5", "conv5", 64),
    ],
)
def test_known_networks_give_the_layer_one_expects(name, layer, side):
    model = torchvision_model(name)
    assert found(model, side) == layer


def test_vggs_layer_is_a_relu():
    with torch.device("meta"):
        assert isinstance(torchvision_model("vgg11").features[19], nn.ReLU)
        assert isinstance(torchvision_model("vgg11_bn").features[27], nn.ReLU)


def test_the_embedded_network_gives_its_head():
    assert found(EfficientNetLite0(classes=3)) == "head"


def features(*last: nn.Module) -> nn.Module:
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *last, *pooled)


def test_pooling_makes_no_map_of_its_own():
    for pooling in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(4)):
        assert found(features(pooling)) == "1"
    assert found(features(nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))) == "3"


@pytest.mark.parametrize("passing", [nn.Identity, nn.Dropout, nn.Dropout2d])
def test_a_layer_that_hands_on_what_it_was_given_does_not_hide_who_made_it(passing):
    assert found(features(passing())) == "1"


def test_a_container_counts_as_the_layer_whose_output_it_hands_on():
    model = nn.Sequential(features()[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert found(model) == "0"
    pooled = nn.Sequential(features(nn.MaxPool2d(2))[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert found(pooled) == "0.1"


def test_the_order_is_that_of_execution_not_of_definition():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(4, 5, 3)
            self.first = nn.Conv2d(3, 4, 3)
            self.unused = nn.Conv2d(5, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)).mean(dim=(2, 3))

    assert found(Backwards()) == "second"


def test_a_small_net_gives_its_last_activation():
    assert found(toys.small_net().float()) == "act2"


def test_a_map_of_one_pixel_is_not_spatial():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 6), nn.Flatten())
    assert found(model, 8) == "0"


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), nn.Conv2d(3, 2, 8)])
def test_a_model_without_a_spatial_layer_is_an_input_error(model):
    with pytest.raises(InputError, match=r"no layer of the model has an output with height and width; .*--layer") as e:
        found(model, 8)
    assert e.value.exit_code == 3


def test_hooks_are_removed_also_after_an_error():
    model = toys.small_net().float()

    def run() -> None:
        model(torch.rand(1, 3, 8, 8))
        raise KeyError

    with pytest.raises(KeyError):
        last_spatial_layer(model, run)
    found(model, 8)
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------------------------------------------------------- layers with weights


def layers(model: nn.Module, side: int = 64) -> list[tuple[str, ...]]:
    model.eval().requires_grad_(False)
    hooks = {name: len(each._forward_pre_hooks) for name, each in model.named_modules()}
    found = weighted_layers(model, lambda: model(torch.rand(1, 3, side, side)))
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
