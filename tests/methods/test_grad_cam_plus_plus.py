"""Grad-CAM++ against its definition, pytorch-grad-cam and closed forms."""

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


@pytest.mark.parametrize("layer", ["auto", "conv2", "pool", "act1", "conv1"])
def test_equals_the_reference(layer):
    found = xplain.attribute(CLASSIFIER, X, "grad-cam-plus-plus", target=TARGETS, layer=layer)
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    for value, image, target in zip(found.values, X, TARGETS, strict=True):
        coarse = reference.grad_cam_plus_plus(*reference.read(NET, module, toys.normalise(image), target))
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(found.values.max()) > 0.01


@pytest.mark.parametrize("layer", ["act2", "act1"])
def test_agrees_with_pytorch_grad_cam(layer):
    """Gradients are made large, so that the 1e-6 in its denominator does not count."""
    theirs = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net = toys.small_net(2, scale=150.0)
    clf, _ = toys.with_pixels(net)
    mine = xplain.attribute(clf, X, "grad-cam-plus-plus", target=1, layer=layer).values[:, 0]
    with theirs.GradCAMPlusPlus(net, [net.get_submodule(layer)]) as cam:
        maps = cam(toys.normalise(X), [targets.ClassifierOutputTarget(1)] * 3)
    for a, b in zip(mine, maps, strict=True):
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.9999


def test_constant_gradients_have_a_closed_form():
    """A mean and a linear head: g = w/Z everywhere, so w_k = Z max(g, 0) / (2 + g ΣA)."""
    got = xplain.attribute(CLASSIFIER, X, "grad-cam-plus-plus", target=1).values
    activations, _ = zip(*(reference.read(NET, NET.act2, toys.normalise(image), 1) for image in X), strict=True)
    a = torch.stack(activations)
    g = NET.head.weight[1].detach() / 20
    weights = 20 * g.clamp(min=0) / (2 + g * a.sum(dim=(2, 3)))
    coarse = (weights[:, :, None, None] * a).sum(dim=1).clamp(min=0)
    torch.testing.assert_close(got[:, 0], torch.stack([upsample(each, 8, 10) for each in coarse]))


def test_all_negative_gradients_give_zero_not_nan():
    net = toys.small_net(1)
    net.head.weight.data.abs_().neg_()
    values = xplain.attribute(toys.classifier(net), X, "grad-cam-plus-plus", target=3).values
    assert values.unique().tolist() == [0.0]


def test_denominators_that_vanish_count_nothing():
    net = toys.small_net(1, scale=1000.0, activation=torch.nn.Identity)
    assert xplain.attribute(toys.classifier(net), X, "grad-cam-plus-plus", target=3).values.isfinite().all()
