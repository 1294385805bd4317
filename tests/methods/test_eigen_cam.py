"""Eigen-CAM: NumPy's SVD, independence of the class and of the order of the channels, and pytorch-grad-cam."""

import numpy as np
import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.reference.grad_cam import upsample

NET = toys.small_net(1, scale=15.0)
CLASSIFIER, _ = toys.with_pixels(NET)
X = toys.images(3)


def read_activations(net: torch.nn.Module, layer: str, image: Tensor) -> np.ndarray:
    """Return the activations (K, h, w) of a layer."""
    outputs: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        net(image[None])
    handle.remove()
    return outputs[0][0].numpy()


@pytest.mark.parametrize("layer", ["act2", "conv2", "conv1"])
@pytest.mark.parametrize("center", [False, True])
def test_eigen_cam_equals_numpy(layer, center):
    result = xplain.attribute(CLASSIFIER, X, "eigen-cam", layer=layer, center=center)
    for value, image in zip(result.values, X, strict=True):
        activations = read_activations(NET, layer, toys.normalise(image))
        matrix = activations.reshape(len(activations), -1).T
        if center:
            matrix = matrix - matrix.mean(axis=0)
        vector = np.linalg.svd(matrix)[2][0]
        projection = matrix @ vector
        projection = projection * np.sign(projection[np.abs(projection).argmax()])
        coarse = torch.from_numpy(projection.reshape(activations.shape[1:])).clamp(min=0)
        toys.assert_same(value, upsample(coarse, 8, 10)[None])
    assert float(result.values.max()) > 0.01


def test_class_and_head_do_not_matter():
    values = [xplain.attribute(CLASSIFIER, X, "eigen-cam", target=target).values for target in range(5)]
    assert all(torch.equal(value, values[0]) for value in values)
    net = toys.small_net(1, scale=15.0)
    net.head.weight.data.neg_()
    assert torch.equal(xplain.attribute(toys.with_pixels(net)[0], X, "eigen-cam").values, values[0])


def test_order_of_the_channels_does_not_matter():
    net = toys.small_net(1, scale=15.0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    net.conv2.weight.data, net.conv2.bias.data = net.conv2.weight.data[order], net.conv2.bias.data[order]
    expected = xplain.attribute(CLASSIFIER, X, "eigen-cam", layer="act2").values
    toys.assert_same(xplain.attribute(toys.with_pixels(net)[0], X, "eigen-cam", layer="act2").values, expected)


def test_nonnegative_activations_need_no_sign():
    """The first singular vector of a matrix >= 0 is >= 0 (Perron), so that nothing is cut off."""
    result = xplain.attribute(CLASSIFIER, X, "eigen-cam", layer="act2")
    for value, image in zip(result.values, X, strict=True):
        activations = read_activations(NET, "act2", toys.normalise(image))
        singular = np.linalg.svd(activations.reshape(len(activations), -1).T, compute_uv=False)[0]
        coarse = value[0].unfold(0, 2, 2).unfold(1, 2, 2).mean(dim=(2, 3))
        assert float(coarse.norm()) < singular < 1.5 * float(coarse.norm())


def test_centered_eigen_cam_agrees_with_pytorch_grad_cam():
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    projection = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations").get_2d_projection
    assert pytorch_grad_cam.EigenCAM is not None
    for image in X:
        activations = read_activations(NET, "act2", toys.normalise(image))
        theirs = torch.from_numpy(np.asarray(projection(activations[None])[0], dtype=np.float64))
        (ours,) = xplain.attribute(CLASSIFIER, image[None], "eigen-cam", layer="act2", center=True).values[:, 0]
        candidates = [upsample((sign * theirs).clamp(min=0), 8, 10) for sign in (1, -1)]
        assert min(float((ours - candidate).abs().max()) for candidate in candidates) < 1e-5 * float(ours.max())
