"""XGrad-CAM: literal reference, conservation, and its behavior without activation and with negative activations."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import layers as reference
from tests.reference.grad_cam import upsample

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, _ = toys.with_pixels(NET)
X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("layer", ["auto", "act1", "pool"])
def test_xgrad_cam_equals_reference(layer):
    result = xplain.attribute(CLASSIFIER, X, "xgrad-cam", target=TARGETS, layer=layer)
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    for value, image, target in zip(result.values, X, TARGETS, strict=True):
        coarse = reference.xgrad_cam(*reference.read(NET, module, toys.normalise(image), target))
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(result.values.max()) > 0.01
    assert toys.warned(result, "negative activations") == [False] * 3


def test_sum_equals_that_of_hires_cam():
    """Conservation: if no position is cut off at zero, both maps sum to Σ A ⊙ g."""
    net = toys.small_net(1)
    net.head.weight.data.abs_()
    classifier = toys.classifier(net)
    totals = [
        xplain.attribute(classifier, X, name, target=3, layer="act2").total for name in ("xgrad-cam", "hires-cam")
    ]
    toys.assert_same(totals[0], totals[1])


def test_channel_without_activation_has_no_weight():
    net = toys.small_net(1)
    net.conv2.weight.data[0] = 0
    net.conv2.bias.data[0] = -1
    values = xplain.attribute(toys.classifier(net), X, "xgrad-cam", target=3).values
    assert bool(values.isfinite().all())
    net.head.weight.data[3, 0] = 100.0
    toys.assert_same(xplain.attribute(toys.classifier(net), X, "xgrad-cam", target=3).values, values)


def test_negative_activations_are_flagged():
    result = xplain.attribute(CLASSIFIER, X, "xgrad-cam", target=TARGETS, layer="conv2")
    assert toys.warned(result, "negative activations") == [True] * 3


def test_xgrad_cam_agrees_with_pytorch_grad_cam():
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    values = xplain.attribute(CLASSIFIER, X, "xgrad-cam", target=1, layer="act1").values[:, 0]
    with pytorch_grad_cam.XGradCAM(NET, [NET.act1]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(1)] * 3)
    for value, expected in zip(values, torch.from_numpy(maps), strict=True):
        assert float(torch.corrcoef(torch.stack([value.flatten(), expected.flatten().double()]))[0, 1]) > 0.9999
