"""Ablation-CAM: literal reference, closed forms of linear heads, models that rely on the number of images, and pytorch-grad-cam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from tests.reference import layers as reference
from tests.reference.grad_cam import upsample
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.method_run import MethodRun

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, _ = toys.with_pixels(NET)
X = toys.images(3)
TARGETS = [2, 0, 3]
ROWS: list[tuple[int, int]] = []  # of the images and of the output of the layer, in each call of a Variant
SCORES = {"logit": lambda target: lambda z: z[0, target], "prob": lambda target: lambda z: z.softmax(dim=1)[0, target]}


def explain(net: nn.Module, **options) -> xplain.Attribution:
    return xplain.attribute(toys.classifier(net), X, "ablation-cam", **options)


@pytest.mark.parametrize("batch_size", ["auto", 1, 5])
@pytest.mark.parametrize(
    ("layer", "score"), [("auto", "logit"), ("auto", "prob"), ("conv2", "logit"), ("pool", "logit")]
)
def test_ablation_cam_equals_reference(layer, score, batch_size):
    result = xplain.attribute(
        CLASSIFIER, X, "ablation-cam", target=TARGETS, layer=layer, score=score, batch_size=batch_size
    )
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    for value, image, target in zip(result.values, X, TARGETS, strict=True):
        coarse = reference.ablation_cam(NET, module, toys.normalise(image), SCORES[score](target))
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(result.values.max()) > 1e-3


def test_mean_and_linear_head_weighs_channels_by_their_mean():
    """z_t = Σ_k w_k mean(A^k) + b: without channel k the logit falls by w_k mean(A^k), also where a bias of -1000 makes it negative."""
    net = toys.small_net(1, scale=15.0)
    net.head.bias.data[3] = -1000
    activations = torch.stack([reference.read(net, net.act2, image, 3)[0] for image in X])
    weights = net.head.weight[3].detach() * activations.mean(dim=(2, 3))
    coarse = (weights[:, :, None, None] * activations).sum(dim=1).clamp(min=0)
    assert float(coarse.max()) > 0.05
    expected = torch.stack([upsample(image, 8, 10)[None] for image in coarse])
    toys.assert_same(explain(net, target=3, layer="act2").values, expected, rtol=1e-8)


def test_dead_channels_and_constant_models_give_zero():
    net = toys.small_net(1)
    net.head.weight.data.zero_()
    assert explain(net, target=1).values.unique().tolist() == [0.0]
    net = toys.small_net(1)
    net.head.weight.data[1, 1:] = 0  # only channel 0 matters for class 1, and it is dead
    net.conv2.weight.data[0], net.conv2.bias.data[0] = 0, -1
    assert explain(net, target=1).values.unique().tolist() == [0.0]


def test_class_tokens_keep_their_channels():
    net = toys.token_net(1)
    result = xplain.attribute(
        toys.classifier(net, preprocessing=Preprocessing(size=(8, 10))), X, "ablation-cam", target=2, layer="blocks.0"
    )
    for value, image in zip(result.values, X, strict=True):
        coarse = reference.ablation_cam(net, net.blocks[0], image, SCORES["logit"](2), prefix=2)
        toys.assert_same(value, upsample(coarse.reshape(4, 5), 8, 10)[None])
    assert float(result.values.max()) > 1e-3


class Variant(nn.Module):
    """A small network whose forward pass constrains how many rows the last layers may have."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = toys.small_net(1, scale=15.0), kind
        self.again = nn.Conv2d(12, 12, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        count, net = len(x), self.net
        early = net.pool(net.act1(net.norm1(net.conv1(x))))
        late = net.act2(net.conv2(early))
        if self.kind == "repeats":
            late = self.again(self.again(late))
        ROWS.append((count, len(late)))
        match self.kind:
            case "reshapes":
                late = late.reshape(count, 12, 4, 5)
            case "skips":  # the sum of one row and several is allowed, that of two and several is not
                late = late + early.repeat(1, 2, 1, 1)[:, :12]
            case "counts":  # runs with any number of rows, but the logits depend on it
                late = late * len(late) / count
            case "merges":
                late = late.reshape(count, -1, 12, 4, 5).mean(dim=1)
        return net.head(late.mean(dim=(2, 3)))


SHARED = [(2, 24), (1, 1), (1, 12)]  # 3 images in batches of at most 24 rows; a row is verified
OWN = {
    "skips": [(2, 24), (24, 24), (12, 12)],
    "reshapes": [(2, 24), (24, 24), (12, 12)],
    "counts": [(2, 24), (1, 1), (24, 24), (12, 12)],
    "merges": [(2, 24), (24, 24), (12, 12)],
}


@pytest.mark.parametrize(
    ("kind", "calls"), [("plain", SHARED), ("repeats", SHARED), *OWN.items()], ids=["plain", "repeats", *OWN]
)
def test_layers_before_run_once_if_the_model_allows_it(kind, calls, monkeypatch):
    monkeypatch.setattr(MethodRun, "images_per_call", lambda *_: 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Variant(kind)
    layer, runs = ("again", 2) if kind == "repeats" else ("net.act2", 1)
    classifier = toys.classifier(net)
    xplain.attribute(classifier, X, "ablation-cam", target=2, layer=layer)  # finds the layer
    ROWS.clear()
    result = xplain.attribute(classifier, X, "ablation-cam", target=2, layer=layer, batch_size=24)
    assert [(3, 3), (3, 3), *calls] == ROWS  # after the prediction and the activations
    for value, image in zip(result.values, X, strict=True):
        coarse = reference.ablation_cam(net, net.get_submodule(layer), image, SCORES["logit"](2), runs=runs)
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(result.values.max()) > 0
    assert (result.cost.forwards, result.cost.backwards) == (3 * (1 + 12), 0)
    assert result.details["forwards"].tolist() == [13, 13, 13]


def test_memory_does_not_grow_with_the_channels():
    """No call of the layers behind has more rows than a batch."""
    net, rows = toys.small_net(1), []
    net.head.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    explain(net, target=1, layer="act1", batch_size=3)
    assert max(rows) == 3


def test_full_size_layer_agrees_with_pytorch_grad_cam():
    """Of a ReLU layer, whose smallest value is 0, and a positive logit, by which it divides."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net = toys.small_net(1, scale=15.0)
    net.head.bias.data[1] = 100
    values = xplain.attribute(toys.classifier(net), X, "ablation-cam", target=1, layer="act1").values[:, 0]
    with pytorch_grad_cam.AblationCAM(net, [net.act1]) as cam:
        maps = cam(X, [targets.ClassifierOutputTarget(1)] * 3)
    for value, expected in zip(values, maps, strict=True):
        assert np.corrcoef(value.flatten(), expected.flatten())[0, 1] > 0.9999
