"""HiResCAM: literal reference, exact contributions of linear heads, and pytorch-grad-cam."""

import numpy as np
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


@pytest.mark.parametrize("layer", ["auto", "conv2", "pool", "conv1"])
def test_hires_cam_equals_reference(layer):
    result = xplain.attribute(CLASSIFIER, X, "hires-cam", target=TARGETS, layer=layer)
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    for value, image, target in zip(result.values, X, TARGETS, strict=True):
        coarse = reference.hires_cam(*reference.read(NET, module, toys.normalise(image), target))
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(result.values.max()) > 0.01


def test_mean_and_linear_head_gives_grad_cam():
    for target in range(5):
        values, expected = (
            xplain.attribute(CLASSIFIER, X, name, target=target, layer="act2").values
            for name in ("hirescam", "grad-cam")
        )
        toys.assert_same(values, expected)


def test_flattened_head_gives_each_position_its_contribution():
    """z_t = Σ_p w_p a_p + b: with weights >= 0 the coarse map sums to z_t - b, and doubling the size multiplies the sum by four."""
    net = toys.small_net(1)
    head = torch.nn.Linear(12 * 4 * 5, 5).double()
    head.weight.data.abs_()
    model = torch.nn.Sequential(net.conv1, net.act1, net.pool, net.conv2, net.act2, torch.nn.Flatten(), head)
    total = xplain.attribute(toys.classifier(model), X, "hires-cam", target=3, layer="4").total
    toys.assert_same(total, 4 * (model(X)[:, 3] - head.bias[3]).detach())


def test_hires_cam_agrees_with_pytorch_grad_cam():
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    values = xplain.attribute(CLASSIFIER, X, "hires-cam", target=1, layer="act1").values[:, 0]
    with pytorch_grad_cam.HiResCAM(NET, [NET.act1]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(1)] * 3)
    for value, expected in zip(values, maps, strict=True):
        assert np.corrcoef(value.flatten(), expected.flatten())[0, 1] > 0.9999
