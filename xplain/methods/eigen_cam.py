"""Eigen-CAM, a control: the first principal component of a layer's channels, whatever the class."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import average_layers, name_layers
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layers


@method(
    "eigen-cam",
    violates=frozenset({"sensitivity-a"}),
    access="layers",
    paper=Paper(
        "Eigen-CAM: class activation map using principal components",
        "Mohammed Bany Muhammad, Mohammed Yeasin",
        2020,
        "IJCNN",
        "2008.00299",
    ),
    cost=lambda **_: (1, 0),
    deviations="The map does not depend on the class or on the layers behind: a control. The sign of a singular vector is arbitrary; "
    "here the position with the largest magnitude is positive, as all positions are if no activation is negative. center=true "
    "subtracts the mean over the positions, as pytorch-grad-cam does.",
)
def eigen_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    center: bool = False,
    scale_layers: bool = False,
) -> Attribution:
    """Project the channels of a layer onto their first right singular vector and keep the positive part.

    φ = up(max(A v, 0)), A: the activations as a matrix of positions by channels, v: its first right singular vector.
    Returns (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,), not used.
    layer: the name of a module; ``auto``: the last module in execution order with a spatial output, recorded in ``facts``. The maps of
    several, such as ``layer3+layer4``, are upsampled and averaged.
    layout: the layout of the layer's output: ``HxW`` or ``HxW+PREFIX`` for tokens, ``channels-first`` or ``channels-last``; ``auto``:
    decided by module types and by how the layer responds to changes of image regions.
    scale_layers: scale the map of each of several layers to [0, 1] first, as pytorch-grad-cam does; otherwise the maps keep the units of
    the score, and layers with larger maps count more.
    center: subtract the mean activation of each channel first.
    Raises UsageError if the model has no such layer.
    """
    probes = probe_layers(oracle, x, y, layer, layout, differentiate=False)
    maps = [_find_first_component(probe.activations, center=center).clamp(min=0) for probe in probes]
    return Attribution(average_layers(maps, x, scale=scale_layers), facts={"layer": name_layers(probes)})


def _find_first_component(activations: Tensor, *, center: bool) -> Tensor:
    """Return the projections (B, 1, h, w) of activations (B, K, h, w) on their first right singular vectors."""
    matrices = activations.flatten(2).mT  # (B, positions, K)
    if center:
        matrices = matrices - matrices.mean(dim=1, keepdim=True)
    components = _project_on_first_singular_vector(matrices.double())
    return components.to(activations.dtype).unflatten(1, activations.shape[2:])[:, None]


def _project_on_first_singular_vector(matrices: Tensor) -> Tensor:
    """Return the projections A v (B, positions) of matrices A (B, positions, K) on their first right singular vectors v.

    The position with the largest magnitude is positive.
    """
    vectors = torch.linalg.svd(matrices, full_matrices=False).Vh[:, 0]  # (B, K)
    projections = (matrices @ vectors[..., None])[..., 0]
    largest = projections.take_along_dim(projections.abs().argmax(dim=1, keepdim=True), dim=1)
    return projections * largest.sign()
