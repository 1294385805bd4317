"""Score-CAM: its definition, pytorch-grad-cam and constant models."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import layers as reference
from tests.reference.grad_cam import upsample

NET = toys.small_net(1)
CLASSIFIER, NETWORK = toys.with_pixels(NET)
X = toys.images(3)
MEAN = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand_as(X[0])


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("score", ["logit", "prob"])
@pytest.mark.parametrize(("layer", "baseline"), [("auto", "mean"), ("act1", "black"), ("conv2", "mean")])
def test_score_cam_equals_reference(layer, baseline, score, variant):
    result = xplain.attribute(
        CLASSIFIER, X, "score-cam", target=2, layer=layer, baseline=baseline, score=score, variant=variant
    )
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    fill = MEAN if baseline == "mean" else torch.zeros_like(MEAN)
    for value, image in zip(result.values, X, strict=True):
        activations, _ = reference.read(NET, module, toys.normalise(image), 2)
        coarse = reference.score_cam(
            gradients.SCORES[score](NETWORK, 2), image, fill, activations, normalize=variant == "paper"
        )
        toys.assert_same(value, upsample(coarse, 8, 10)[None])


@pytest.mark.parametrize("count", [1, 5, 100])
def test_channels_selects_most_varied(count):
    result = xplain.attribute(CLASSIFIER, X, "score-cam", target=2, channels=count)
    for value, image in zip(result.values, X, strict=True):
        activations, _ = reference.read(NET, NET.act2, toys.normalise(image), 2)
        varied = sorted(range(12), key=lambda k: -float(activations[k].numpy().std()))[:count]
        score = gradients.SCORES["logit"](NETWORK, 2)
        coarse = reference.score_cam(score, image, MEAN, activations[varied], normalize=True)
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert result.cost.forwards == 3 * (min(count, 12) + 1)


def test_full_size_layer_agrees_with_pytorch_grad_cam():
    """It upsamples masks with aligned corners, so both agree only on a layer of the size of the image."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    values = xplain.attribute(CLASSIFIER, X, "score-cam", target=1, layer="act1").values[:, 0]
    with pytorch_grad_cam.ScoreCAM(NET, [NET.act1]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(1)] * 3)
    for a, b in zip(values, maps, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9999


def test_constant_score_gives_equal_weights():
    net = toys.small_net(1)
    net.head.weight.data.zero_()
    values = xplain.attribute(toys.classifier(net), X, "score-cam", target=0, layer="act1").values
    activations = torch.stack([reference.read(net, net.act1, image, 0)[0] for image in X])
    is_varied = (activations.amax(dim=(2, 3)) > activations.amin(dim=(2, 3)))[:, :, None, None]
    expected = (activations * is_varied).sum(dim=1, keepdim=True) / is_varied.sum(dim=1, keepdim=True)
    torch.testing.assert_close(values, expected)


def test_constant_channels_give_zero():
    net = toys.small_net(1)
    net.conv2.weight.data.zero_()
    values = xplain.attribute(toys.classifier(net), X, "score-cam", target=0, layer="act2").values
    assert values.unique().tolist() == [0.0]


def test_channel_order_does_not_matter():
    other = toys.small_net(1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for tensor in (other.conv2.weight, other.conv2.bias):
            tensor.copy_(tensor[order])
        other.head.weight.copy_(other.head.weight[:, order])
    maps = [
        xplain.attribute(toys.classifier(net), X, "score-cam", target=1).values for net in (toys.small_net(1), other)
    ]
    torch.testing.assert_close(*maps)


def test_cost_is_one_forward_per_channel():
    cost = xplain.attribute(CLASSIFIER, X, "score-cam", target=1, layer="act1").cost
    assert (cost.forwards, cost.backwards) == (3 * (8 + 1), 0)
