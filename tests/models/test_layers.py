"""Finding the last spatial layer, the layout of maps, and layers with weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import toys
from xplain.core.errors import InputError
from xplain.models.efficientnet_lite import EfficientNetLite
from xplain.models.layer_trace import ModelRunner
from xplain.models.layers import find_weighted_layers
from xplain.models.layouts import Layout
from xplain.models.spatial_layers import LayoutFinder, find_spatial_layer


@torch.no_grad()
def last_spatial_layer(model: nn.Module, height: int = 64, width: int | None = None) -> tuple[str, Layout]:
    model.eval()
    size = (height, width or height)
    runner = ModelRunner(model, model, lambda run, x: list(run(x)))
    return find_spatial_layer(LayoutFinder(runner, torch.rand(1, 3, *size)))


def last_layer_name(model: nn.Module, side: int = 64) -> str:
    return last_spatial_layer(model, side)[0]


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
def test_last_spatial_layer_of_torchvision_models(name, layer, side):
    model = torchvision_model(name)
    assert last_layer_name(model, side) == layer


def test_last_spatial_layer_of_vgg_is_relu():
    with torch.device("meta"):
        assert isinstance(torchvision_model("vgg11").features[19], nn.ReLU)
        assert isinstance(torchvision_model("vgg11_bn").features[27], nn.ReLU)


def test_last_spatial_layer_of_embedded_model():
    assert last_layer_name(EfficientNetLite(classes=3)) == "head"


def convolutional_net(*last: nn.Module) -> nn.Module:
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *last, *pooled)


def test_last_spatial_layer_skips_pooling():
    for pooling in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(4)):
        assert last_layer_name(convolutional_net(pooling)) == "1"
    assert last_layer_name(convolutional_net(nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))) == "3"


@pytest.mark.parametrize("passing", [nn.Identity, nn.Dropout, nn.Dropout2d])
def test_last_spatial_layer_skips_identities(passing):
    assert last_layer_name(convolutional_net(passing())) == "1"


def test_last_spatial_layer_may_be_container():
    model = nn.Sequential(convolutional_net()[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert last_layer_name(model) == "0"
    pooled = nn.Sequential(
        convolutional_net(nn.MaxPool2d(2))[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    assert last_layer_name(pooled) == "0.1"


def test_last_spatial_layer_follows_execution_order():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(4, 5, 3)
            self.first = nn.Conv2d(3, 4, 3)
            self.unused = nn.Conv2d(5, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)).mean(dim=(2, 3))

    assert last_layer_name(Backwards()) == "second"


def test_last_spatial_layer_of_small_net():
    assert last_layer_name(toys.small_net().float()) == "act2"


def test_one_pixel_map_is_not_spatial():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 6), nn.Flatten())
    assert last_layer_name(model, 8) == "0"


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), nn.Conv2d(3, 2, 8)])
def test_model_without_spatial_layer_is_an_error(model):
    with pytest.raises(
        InputError,
        match=r"no layer with a spatial output \(height and width\) was found; "
        "set a layer with --layer, or use integrated-gradients or rise",
    ) as e:
        last_layer_name(model, 8)
    assert e.value.exit_code == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_model_has_no_layers():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(InputError, match="the layers of a TorchScript model cannot be observed; use integrated-gradi"):
        last_layer_name(nn.Sequential(scripted, nn.Flatten()), 8)


def test_hooks_are_removed_after_error():
    model = toys.small_net().float()

    def run(x: Tensor) -> Tensor:
        model(x)
        raise KeyError

    with pytest.raises(KeyError):
        LayoutFinder(ModelRunner(model, run, lambda run, x: list(run(x))), torch.rand(1, 3, 8, 8))
    last_layer_name(model, 8)
    assert not any(module._forward_hooks for module in model.modules())


def timm_model(name: str, **options) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=3, **options)


def vit(**options) -> nn.Module:
    shape = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    from torchvision.models import VisionTransformer

    net = VisionTransformer(**shape, num_classes=3, **options)
    nn.init.normal_(net.heads.head.weight)  # initially zero
    return net


def test_vit_layer_precedes_last_attention():
    assert last_spatial_layer(vit()) == ("encoder.layers.encoder_layer_1.ln_1", Layout("tokens", (4, 4), 1))


def small_vit(**options) -> nn.Module:
    return timm_model("vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=12, num_heads=2, **options)


def test_vit_layer_with_registers():
    assert last_spatial_layer(small_vit(reg_tokens=4)) == ("blocks.1.norm1", Layout("tokens", (4, 4), 5))
    mean = small_vit(reg_tokens=2, class_token=False, no_embed_class=True, global_pool="avg", fc_norm=False)
    assert last_spatial_layer(mean) == ("norm", Layout("tokens", (4, 4), 2))


def test_token_grid_of_oblong_image():
    net = timm_model("vit_tiny_patch16_224", img_size=(32, 96), depth=1, embed_dim=12, num_heads=2)
    assert last_spatial_layer(net, 32, 96) == ("blocks.0.norm1", Layout("tokens", (2, 6), 1))


def test_qk_norms_are_not_maps():
    assert last_spatial_layer(small_vit(qk_norm=True))[0] == "blocks.1.norm1"


def test_mixer_layer_is_last_norm():
    pytest.importorskip("timm")
    from timm.models.mlp_mixer import MlpMixer

    net = MlpMixer(3, img_size=64, patch_size=32, num_blocks=1, embed_dim=8)
    assert last_spatial_layer(net) == ("norm", Layout("tokens", (2, 2), 0))


def test_swin_layer_is_channels_last():
    net = timm_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1), num_heads=(1, 1), embed_dim=8
    )
    assert last_spatial_layer(net) == ("norm", Layout("channels-last", (8, 8)))


class Patches(nn.Module):
    """Patches cut out by reshaping, without a convolution. Only the shape of the image determines the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(3 * 8 * 8, 6), nn.LayerNorm(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return self.head(self.embed(rows).mean(dim=1))


def test_token_grid_without_convolution():
    assert last_spatial_layer(Patches(), 16, 48) == ("embed", Layout("tokens", (2, 6), 0))


def test_layout_to_map_is_row_major():
    tokens = torch.arange(2 * 7 * 3).reshape(2, 7, 3)
    mapped = Layout("tokens", (2, 3), 1).to_map(tokens)
    assert mapped.shape == (2, 3, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(mapped[:, :, row, column], tokens[:, 1 + 3 * row + column])
    last = torch.rand(2, 4, 5, 3)
    assert torch.equal(Layout("channels-last", (4, 5)).to_map(last)[1, 2, 3, 4], last[1, 3, 4, 2])


def weighted_layers(model: nn.Module, side: int = 64) -> list[tuple[str, ...]]:
    model.eval().requires_grad_(False)
    hooks = {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
    layers = find_weighted_layers(model, lambda: model(torch.rand(1, 3, side, side)))
    assert {name: len(module._forward_pre_hooks) for name, module in model.named_modules()} == hooks
    assert not any(parameter.requires_grad for parameter in model.parameters())
    return layers


class UnusualOrder(nn.Module):
    """Defined in another order than it runs, with a parameter of its own, an uncalled layer and two unused layers."""

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


def test_weighted_layers_in_execution_order():
    assert weighted_layers(toys.small_net().float()) == [("conv1", "norm1"), ("conv2",), ("head",)]
    assert weighted_layers(UnusualOrder()) == [
        ("", "early"),  # the parameter ``shift``, and the norm that runs after it
        ("inner.0", "inner.1", "inner.3"),
        ("attention", "attention.out_proj"),  # out_proj is used without a call
        ("head",),
    ]


def test_first_norm_is_a_weighted_layer():
    assert weighted_layers(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)), side=2) == [("0",), ("2",)]


def test_shared_layer_counts_once():
    shared = nn.Conv2d(3, 3, 1)
    assert weighted_layers(nn.Sequential(shared, nn.Conv2d(3, 3, 1), shared, nn.Flatten(1))) == [("0",), ("1",)]


@pytest.mark.parametrize(
    ("name", "side", "count", "first", "last"),
    [
        ("resnet18", 64, 21, ("conv1", "bn1"), ("fc",)),
        ("googlenet", 64, 58, ("conv1.conv", "conv1.bn"), ("fc",)),  # 57 convolutions, no auxiliary heads
        ("densenet121", 64, 121, ("features.conv0", "features.norm0"), ("classifier",)),
    ],
)
def test_weighted_layers_of_torchvision_models(name, side, count, first, last):
    layers = weighted_layers(torchvision_model(name), side)
    assert len(layers) == count
    assert (layers[0][:2], layers[-1]) == (first, last)


def test_weighted_layers_of_embedded_model():
    layers = weighted_layers(EfficientNetLite())
    assert len(layers) == 50
    assert (layers[0], layers[-1]) == (("stem.0", "stem.1"), ("classifier",))
