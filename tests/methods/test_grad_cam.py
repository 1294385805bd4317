"""Grad-CAM: literal reference, identities of networks that end in a mean, and the layer that is chosen."""

import pytest
import torch
import torch.nn.functional as F

import xplain
from tests.helpers import toys
from tests.reference import grad_cam as reference
from xplain.core.errors import UsageError
from xplain.data.preprocessing import Preprocessing

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, _ = toys.with_pixels(NET)
X = toys.images(3)
TARGETS = [2, 0, 3]


@pytest.mark.parametrize("batch_size", ["auto", 1, 2])
@pytest.mark.parametrize("layer", ["auto", "act2", "conv2", "pool", "act1", "norm1", "conv1"])
def test_grad_cam_equals_reference(layer, batch_size):
    result = xplain.attribute(CLASSIFIER, X, "grad-cam", target=TARGETS, layer=layer, batch_size=batch_size)
    module = NET.get_submodule("act2" if layer == "auto" else layer)
    for value, image, target in zip(result.values, X, TARGETS, strict=True):
        coarse = reference.grad_cam(NET, module, toys.normalise(image), target)
        toys.assert_same(value, reference.upsample(coarse, 8, 10)[None])
    assert float(result.values.amax(dim=(1, 2, 3)).max()) > 0.01


def test_auto_layer_is_last_spatial_layer():
    assert xplain.attribute(CLASSIFIER, X, "grad-cam").facts["layer"] == "act2"


def test_unknown_layer_is_refused():
    with pytest.raises(UsageError, match="act2"):
        xplain.attribute(CLASSIFIER, X, "grad-cam", layer="act3")


def test_layer_without_space_is_refused():
    with pytest.raises(UsageError, match="height and width"):
        xplain.attribute(CLASSIFIER, X, "grad-cam", layer="head")


def test_positive_weights_sum_to_logit():
    """A mean and a linear head with weights >= 0: Σ_ij L_ij = z_t - b_t; doubling the size multiplies the sum by four."""
    net = toys.small_net(1)
    net.head.weight.data.abs_()
    total = xplain.attribute(toys.classifier(net), X, "grad-cam", target=3).total
    toys.assert_same(total, 4 * (net(X)[:, 3] - net.head.bias[3]).detach())


def test_negative_channels_give_zero():
    net = toys.small_net(1)
    net.head.weight.data.abs_().neg_()
    values = xplain.attribute(toys.classifier(net), X, "grad-cam", target=3).values
    assert values.unique().tolist() == [0.0]


def test_class_without_weights_gives_zero():
    net = toys.small_net(1)
    net.head.weight.data[3] = 0
    values = xplain.attribute(toys.classifier(net), X, "grad-cam", target=3).values
    assert values.unique().tolist() == [0.0]


def test_upsampling_keeps_the_maximum():
    values = xplain.attribute(CLASSIFIER, X, "grad-cam", target=2).values
    for value, image in zip(values, X, strict=True):
        coarse = reference.grad_cam(NET, NET.act2, toys.normalise(image), 2)
        top, fine = int(coarse.argmax()), int(value.argmax())
        assert (fine // 10 // 2, fine % 10 // 2) == (top // 5, top % 5)


def test_cost_counts_layer_search_as_check():
    for layer, search in (("act2", 1), ("auto", 1)):
        classifier, _ = toys.with_pixels(NET)
        rows = toys.watch(classifier)
        cost = xplain.attribute(classifier, X, "grad-cam", layer=layer).cost
        assert (cost.forwards, cost.backwards) == (3, 3)
        assert sum(rows) == 3 + search  # the method shares the pass of the prediction
        assert cost.checks == search


@pytest.mark.parametrize("layer", ["auto", "blocks.0"])
def test_tokens_form_map_without_class_token(layer):
    """Eq. 1 and 2 on the (4, 5) patches after a class token and a register, with hooks."""
    net = toys.token_net(classes=5)
    small = toys.classifier(net, preprocessing=Preprocessing(size=(8, 10)))
    held, tops = [], []
    site = net.blocks[1].norm if layer == "auto" else net.blocks[0]
    for target in range(5):
        handle = site.register_forward_hook(lambda _, __, output: held.append(output))
        logit = net(X[:1])[0, target]
        (slope,) = torch.autograd.grad(logit, held[-1])
        handle.remove()
        patches, slopes = held[-1][0, 2:].detach(), slope[0, 2:]
        coarse = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
        for row in range(4):
            for column in range(5):
                coarse[0, 0, row, column] = max(float(patches[5 * row + column] @ slopes.mean(dim=0)), 0)
        result = xplain.attribute(small, X[:1], "grad-cam", target=target, layer=layer)
        assert result.facts["layer"] == ("blocks.1.norm" if layer == "auto" else layer)
        toys.assert_same(result.values, F.interpolate(coarse, (8, 10), mode="bilinear", align_corners=False))
        tops.append(float(coarse.max()))
    assert max(tops) > 0
