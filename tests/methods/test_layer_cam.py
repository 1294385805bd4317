"""LayerCAM: its definition and pytorch-grad-cam."""

import numpy as np
import pytest

import xplain
from tests.helpers import toys
from tests.reference import layers as reference
from tests.reference.grad_cam import upsample

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, _ = toys.with_pixels(NET)
X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("layer", ["auto", "conv2", "pool", "act1", "conv1"])
def test_layer_cam_equals_reference(layer):
    result = xplain.attribute(CLASSIFIER, X, "layer-cam", target=TARGETS, layer=layer)
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    for value, image, target in zip(result.values, X, TARGETS, strict=True):
        coarse = reference.layer_cam(*reference.read(NET, module, toys.normalise(image), target))
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(result.values.max()) > 0.01


@pytest.mark.parametrize(
    ("name", "layer"), [("layer-cam", "act1"), ("layer-cam", "act2"), ("grad-cam", "act1"), ("grad-cam", "act2")]
)
def test_layer_methods_agree_with_pytorch_grad_cam(name, layer):
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    values = xplain.attribute(CLASSIFIER, X, name, target=1, layer=layer).values[:, 0]
    kind = {"layer-cam": pytorch_grad_cam.LayerCAM, "grad-cam": pytorch_grad_cam.GradCAM}[name]
    with kind(NET, [NET.get_submodule(layer)]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(1)] * 3)
    for a, b in zip(values, maps, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9999


def test_layer_cam_is_never_negative():
    net = toys.small_net(1)
    net.head.weight.data.abs_().neg_()
    assert xplain.attribute(toys.classifier(net), X, "layer-cam", target=3).values.unique().tolist() == [0.0]
    assert xplain.attribute(CLASSIFIER, X, "layer-cam", target=3).values.min() >= 0
