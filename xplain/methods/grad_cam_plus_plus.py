"""Grad-CAM++: the channels of a layer, weighted by weighted sums of their positive gradients."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import average_layers, name_layers, positive_sum
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import LayerResult, probe_layers


@method(
    "grad-cam-plus-plus",
    violates=frozenset({"sensitivity-a"}),
    starts_with="layers",
    paper=Paper(
        "Grad-CAM++: improved visual explanations for deep convolutional networks",
        "Aditya Chattopadhay, Anirban Sarkar, Prantik Howlader, Vineeth N. Balasubramanian",
        2018,
        "WACV",
        "1710.11063",
    ),
    deviations="The factor e^f of the paper's exponential score is omitted: it scales the whole map and overflows. A cell whose "
    "denominator is not positive, which requires negative activations, has the weight 0. pytorch-grad-cam adds 1e-6 to the "
    "denominator, which outweighs gradients below 1e-3 and then changes the weights; both maps agree for large gradients.",
)
def grad_cam_plus_plus(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    scale_layers: bool = False,
) -> Attribution:
    """Sum the channels of a layer, weighted by weighted sums of their positive gradients, and keep the positive part.

    φ = up(max(Σ_k w_k A^k, 0)), w_k = Σ_ij a^k_ij max(g^k_ij, 0), g = ∂f/∂A,
    a^k_ij = g² / (2 g² + g³ Σ_ab A^k_ab) (Eq. 5 and 19). Returns (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layer: the name of a module; ``auto``: the last module in execution order with a spatial output, recorded in ``facts``. The maps of
    several, such as ``layer3+layer4``, are upsampled and averaged.
    layout: the layout of the layer's output: ``HxW`` or ``HxW+PREFIX`` for tokens, ``channels-first`` or ``channels-last``; ``auto``:
    decided by module types and by how the layer responds to changes of image regions.
    scale_layers: scale the map of each of several layers to [0, 1] first, as pytorch-grad-cam does; otherwise the maps keep the units of
    the score, and layers with larger maps count more.
    Raises UsageError if the model has no such layer.
    """
    probes = probe_layers(oracle, x, y, layer, layout)
    maps = [positive_sum(_compute_weights(probe) * probe.activations) for probe in probes]
    return Attribution(average_layers(maps, x, scale=scale_layers), facts={"layer": name_layers(probes)})


def _compute_weights(probe: LayerResult) -> Tensor:
    """Return the weights w (B, K, 1, 1) of the channels of a layer."""
    gradients = probe.gradients.clamp(min=0)
    denominators = 2 + gradients * probe.activations.sum(dim=(2, 3), keepdim=True)  # the fraction a, reduced by g²
    tiny = torch.finfo(denominators.dtype).tiny
    terms = torch.where(denominators > 0, gradients / denominators.clamp(min=tiny), 0)
    return terms.sum(dim=(2, 3), keepdim=True)
