"""Score-CAM against its definition, pytorch-grad-cam and what a constant model must give."""

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
def test_equals_the_reference(layer, baseline, score, variant):
    found = xplain.attribute(
        CLASSIFIER, X, "score-cam", target=2, layer=layer, baseline=baseline, score=score, variant=variant
    )
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    fill = MEAN if baseline == "mean" else torch.zeros_like(MEAN)
    for value, image in zip(found.values, X, strict=True):
        activations, _ = reference.read(NET, module, toys.normalise(image), 2)
        coarse = reference.score_cam(
            gradients.SCORES[score](NETWORK, 2), image, fill, activations, normalise=variant == "paper"
        )
        toys.assert_same(value, upsample(coarse, 8, 10)[None])


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_few_channels_are_those_that_vary_most(count):
    found = xplain.attribute(CLASSIFIER, X, "score-cam", target=2, channels=count)
    for value, image in zip(found.values, X, strict=True):
        activations, _ = reference.read(NET, NET.act2, toys.normalise(image), 2)
        varied = sorted(range(12), key=lambda k: -float(activations[k].numpy().std()))[:count]
        score = gradients.SCORES["logit"](NETWORK, 2)
        coarse = reference.score_cam(score, image, MEAN, activations[varied], normalise=True)
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert found.cost.forwards == 3 * (min(count, 12) + 1)


def test_agrees_with_pytorch_grad_cam_where_nothing_is_stretched():
    """It stretches masks corner to corner, so the definitions agree on a layer of the image's own size only."""
    theirs = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    mine = xplain.attribute(CLASSIFIER, X, "score-cam", target=1, layer="act1").values[:, 0]
    with theirs.ScoreCAM(NET, [NET.act1]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(1)] * 3)
    for a, b in zip(mine, maps, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9999


def test_a_constant_score_weighs_all_channels_alike():
    net = toys.small_net(1)
    net.head.weight.data.zero_()
    got = xplain.attribute(toys.classifier(net), X, "score-cam", target=0, layer="act1").values
    activations = torch.stack([reference.read(net, net.act1, image, 0)[0] for image in X])
    varies = (activations.amax(dim=(2, 3)) > activations.amin(dim=(2, 3)))[:, :, None, None]
    expected = (activations * varies).sum(dim=1, keepdim=True) / varies.sum(dim=1, keepdim=True)
    torch.testing.assert_close(got, expected)


def test_constant_channels_give_zero_not_nan():
    net = toys.small_net(1)
    net.conv2.weight.data.zero_()
    values = xplain.attribute(toys.classifier(net), X, "score-cam", target=0, layer="act2").values
    assert values.unique().tolist() == [0.0]


def test_the_order_of_channels_does_not_matter():
    other = toys.small_net(1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for tensor in (other.conv2.weight, other.conv2.bias):
            tensor.copy_(tensor[order])
        other.head.weight.copy_(other.head.weight[:, order])
    mine = [
        xplain.attribute(toys.classifier(net), X, "score-cam", target=1).values for net in (toys.small_net(1), other)
    ]
    torch.testing.assert_close(*mine)


def test_costs_a_forward_a_channel():
    cost = xplain.attribute(CLASSIFIER, X, "score-cam", target=1, layer="act1").cost
    assert (cost.forwards, cost.backwards) == (3 * (8 + 1), 0)
