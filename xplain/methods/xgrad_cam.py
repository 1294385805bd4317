"""XGrad-CAM: the channels of a layer, weighted by their gradients averaged over the activation."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import average_layers, name_layers, positive_sum
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import LayerResult, probe_layers

SIGNED = "the layer has negative activations, for which the weights are not defined as averages"


@method(
    "xgrad-cam",
    violates=frozenset({"sensitivity-a"}),
    starts_with="layers",
    paper=Paper(
        "Axiom-based Grad-CAM: towards accurate visualization and explanation of CNNs",
        "Ruigang Fu, Qingyong Hu, Xiaohu Dong, Yulan Guo, Yinghui Gao, Biao Li",
        2020,
        "BMVC",
        "2008.02312",
    ),
    deviations="Not scaled to [0, 1]: the map has the units of the score. A channel whose activations sum to zero has the weight 0; the "
    "programs in use add a small number to the sum instead. Images with negative activations are flagged: the weights of their "
    "channels are not averages, and grow without bound where the activations cancel.",
)
def xgrad_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    scale_layers: bool = False,
) -> Attribution:
    """Sum the channels of a layer, weighted by their gradients averaged over the activation, and keep the positive part.

    φ = up(max(Σ_k α_k A^k, 0)), α_k = Σ_ij (∂f/∂A^k ⊙ A^k)_ij / Σ_ij A^k_ij (Eq. 8). Returns (B, 1, H, W).

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
    is_signed = torch.stack([(probe.activations < 0).flatten(1).any(dim=1) for probe in probes]).any(dim=0)
    values = average_layers(maps, x, scale=scale_layers)
    return Attribution(values, facts={"layer": name_layers(probes)}, flags={SIGNED: is_signed})


def _compute_weights(probe: LayerResult) -> Tensor:
    """Return the weights α (B, K, 1, 1) of the channels of a layer."""
    sums = probe.activations.sum(dim=(2, 3), keepdim=True)
    products = (probe.gradients * probe.activations).sum(dim=(2, 3), keepdim=True)
    return torch.where(sums == 0, 0, products / sums.where(sums != 0, 1))
