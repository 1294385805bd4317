"""Attention rollout and attention relevance: literal versions, all implementations of attention, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from tests.reference import attention as literal
from xplain.core.errors import UsageError
from xplain.data.preprocessing import Preprocessing

METHODS = ("attention-rollout", "attention-relevance")
X = toys.images(2)
TARGETS = [1, 3]
NONE = "but none was found in the model"


def weights_and_gradients(
    model: nn.Module, attentions: list[nn.Module], row: int, y: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights (heads, N, N) per layer for one image, read from ``attention.weights``, and the logit's gradients."""
    logits = model(X[row : row + 1].to(next(model.parameters()).dtype))
    weights = [attention.weights for attention in attentions]
    gradients = torch.autograd.grad(logits[0, y], weights)
    return [weight[0].detach() for weight in weights], [gradient[0] for gradient in gradients]


def upsampled(patches: Tensor, height: int, width: int, like: Tensor) -> Tensor:
    return F.interpolate(patches.reshape(1, 1, height, width), like.shape[-2:], mode="bilinear", align_corners=False)[0]


def small(model: nn.Module) -> xplain.Classifier:
    return toys.classifier(model, preprocessing=Preprocessing(size=tuple(X.shape[-2:])))


def explain(model: nn.Module, method: str, **options) -> xplain.Attribution:
    return xplain.attribute(small(model), X, method, target=TARGETS, **options)


@pytest.mark.parametrize("kind", ["fused", "module", "softmax"])
@pytest.mark.parametrize("method", METHODS)
def test_method_equals_literal_version(method, kind):
    """The literal version reads the weights of a handwritten softmax, whatever the model uses."""
    values = explain(toys.token_net(kind=kind), method).values
    plain = toys.token_net(kind="softmax")
    for i, y in enumerate(TARGETS):
        weights, gradients = weights_and_gradients(plain, list(plain.blocks), i, y)
        flow = literal.rollout(weights) if method == "attention-rollout" else literal.relevance(weights, gradients)
        toys.assert_same(values[i], upsampled(flow[0, 2:], 4, 5, X))  # from the class token, without the register
        assert values[i].std() > 0.01 * values[i].mean() > 0


@pytest.mark.parametrize("method", METHODS)
def test_averaged_patches_average_their_rows(method):
    values = explain(toys.token_net(kind="fused", average=True), method).values
    plain = toys.token_net(kind="softmax", average=True)
    for i, y in enumerate(TARGETS):
        weights, gradients = weights_and_gradients(plain, list(plain.blocks), i, y)
        identity = torch.eye(22, dtype=torch.float64)
        flow = (
            literal.rollout(weights)
            if method == "attention-rollout"
            else literal.relevance(weights, gradients) - identity
        )
        toys.assert_same(values[i], upsampled(flow[2:, 2:].mean(dim=0), 4, 5, X))


def test_rollout_of_uniform_attention():
    """The rows of a product of stochastic matrices sum to 1, with the columns of class token and register."""
    model = toys.token_net()
    with torch.no_grad():
        model.prefix.fill_(0)
        for block in model.blocks:
            block.inner.in_proj_weight[:24] = 0  # queries and keys, so that all weights are 1 / 22
            block.inner.in_proj_bias.zero_()
    values = explain(model, "attention-rollout").values
    # (I + 1/22) / 2 squared: 1/4 I + 3/4 / 22
    toys.assert_same(values, torch.full_like(values, 0.75 / 22))


def test_only_relevance_depends_on_target():
    model = small(toys.token_net())
    rollouts = [xplain.attribute(model, X, "attention-rollout", target=y).values for y in (1, 2)]
    relevances = [xplain.attribute(model, X, "attention-relevance", target=y).values for y in (1, 2)]
    assert torch.equal(*rollouts)
    assert not torch.allclose(*relevances, rtol=0.1)


def test_relevance_uses_contrast_class():
    """With a contrast class, the gradients are those of the difference of the logits."""
    model = toys.token_net()
    values = explain(model, "attention-relevance", against=4).values
    plain = toys.token_net(kind="softmax")
    weights, target_gradients = weights_and_gradients(plain, list(plain.blocks), 0, TARGETS[0])
    _, contrast_gradients = weights_and_gradients(plain, list(plain.blocks), 0, 4)
    flow = literal.relevance(weights, [a - b for a, b in zip(target_gradients, contrast_gradients, strict=True)])
    toys.assert_same(values[0], upsampled(flow[0, 2:], 4, 5, X))


class RecordedAttention(nn.Module):
    """``nn.MultiheadAttention`` written by hand, with the parameters of the original."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.original, self.weights = original, torch.empty(0)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_) -> tuple[Tensor, None]:
        projected = F.linear(query, self.original.in_proj_weight, self.original.in_proj_bias)
        heads = projected.unflatten(2, (3 * self.original.num_heads, -1)).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        self.weights = (q @ k.transpose(2, 3) * self.original.head_dim**-0.5).softmax(dim=-1)
        return self.original.out_proj((self.weights @ v).transpose(1, 2).flatten(2)), None


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(
        image_size=16, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=5
    )
    nn.init.normal_(net.heads.head.weight)
    for name, parameter in net.named_parameters():
        if name.endswith("in_proj_weight"):
            parameter.data *= 3
    return net.double().eval()


@pytest.fixture
def images_16x16(monkeypatch):
    """Replace X by images of 16 x 16."""
    monkeypatch.setattr(f"{__name__}.X", toys.images(2, 16, 16))


@pytest.mark.usefixtures("images_16x16")
@pytest.mark.parametrize("method", METHODS)
def test_torchvision_vit_equals_literal_version(method):
    net = torchvision_vit()
    values = explain(net, method).values
    layers = net.encoder.layers
    for layer in layers:
        layer.self_attention = RecordedAttention(layer.self_attention)
    weights, gradients = weights_and_gradients(net, [layer.self_attention for layer in layers], 0, TARGETS[0])
    assert weights[0].shape == (2, 17, 17)
    flow = literal.rollout(weights) if method == "attention-rollout" else literal.relevance(weights, gradients)
    toys.assert_same(values[0], upsampled(flow[0, 1:], 4, 4, X))


POOLS = {  # options of timm models with registers that pool in different ways, and the number of tokens before the patches
    "token": ({}, 4),
    "average": ({"class_token": False, "global_pool": "avg"}, 3),
    "average with a class token": ({"global_pool": "avg"}, 4),
}


@pytest.mark.usefixtures("images_16x16")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_timm_vit_with_registers(method, fused, pool):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options, prefix = POOLS[pool]
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}
    net = timm.models.VisionTransformer(**shape, **options, reg_tokens=3, qk_norm=True).double().eval()
    for block in net.blocks:
        block.attn.fused_attn = fused
    values = explain(net, method).values

    def record(attention: nn.Module, _: object, output: Tensor) -> None:
        attention.weights = output

    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(record)
    weights, gradients = weights_and_gradients(net, [block.attn.attn_drop for block in net.blocks], 0, TARGETS[0])
    count = prefix + 16
    assert weights[0].shape == (2, count, count)
    flow = literal.rollout(weights) if method == "attention-rollout" else literal.relevance(weights, gradients)
    if pool == "token":
        patches = flow[0, prefix:]
    else:  # relevance omits the identity
        identity = torch.eye(count, dtype=torch.float64) * (method == "attention-relevance")
        patches = (flow - identity)[prefix:, prefix:].mean(dim=0)
    toys.assert_same(values[0], upsampled(patches, 4, 4, X))


def refused(model: nn.Module, method: str, images: Tensor) -> str:
    with pytest.raises(UsageError) as error:
        xplain.attribute(
            toys.classifier(model, preprocessing=Preprocessing(size=tuple(images.shape[-2:]))), images, method
        )
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{method} requires attention over a single grid of tokens, but ")
    return str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_convolutional_network_is_refused(method):
    text = refused(toys.small_net(), method, X)
    assert text.endswith(f"{NONE}; use grad-cam, integrated-gradients or rise")


@pytest.mark.parametrize("method", METHODS)
def test_window_attention_is_refused(method):
    from torchvision.models import SwinTransformer

    net = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=5).double().eval()
    message = "the attention weights of features.1.0.attn have shape 16 x 2 x 4 x 4 for 1 image"
    assert message in refused(net, method, toys.images(1, 16, 16))


class Pyramid(nn.Module):
    """Tokens of two grids."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 4, stride=4).double()
        self.one, self.two = toys.Attend(12, 3, "fused").double(), toys.Attend(12, 3, "fused").double()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.one(self.conv(x).flatten(2).transpose(1, 2))
        return self.two(tokens[:, ::4]).mean(dim=1)


@pytest.mark.parametrize("method", METHODS)
def test_several_grids_are_refused(method):
    assert "the attention weights of two have shape 1 x 3 x 4 x 4 for 1 image" in refused(
        Pyramid().eval(), method, toys.images(1, 16, 16)
    )


@pytest.mark.parametrize("method", METHODS)
def test_channel_attention_is_refused(method):
    """XCiT: a softmax over the channels of each head."""

    class Channels(toys.Attend):
        def forward(self, x: Tensor) -> Tensor:
            heads = x.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)
            return x + ((heads @ heads.mT).softmax(dim=-1) @ heads).permute(0, 3, 1, 2).flatten(2)

    net = toys.token_net()
    net.blocks = nn.Sequential(Channels(12, 3, ""), Channels(12, 3, "")).double().eval()
    assert "4 tokens do not form a grid; use grad-cam, integrated-gradients or rise" in refused(net, method, X)


@pytest.mark.parametrize("method", METHODS)
def test_masked_attention_is_refused(method):
    class Masked(toys.Attend):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
            return x + self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]

    net = toys.token_net()
    net.blocks = nn.Sequential(Masked(12, 3, "module"), Masked(12, 3, "module")).double().eval()
    assert NONE in refused(net, method, X)
