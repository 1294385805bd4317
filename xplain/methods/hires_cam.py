"""HiResCAM: the channels of a layer, weighted at each position by their gradients."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import average_layers, name_layers, positive_sum
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layers


@method(
    "hires-cam",
    violates=frozenset({"sensitivity-a"}),
    alias="hirescam",
    starts_with="layers",
    paper=Paper(
        "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
        "Rachel Lea Draelos, Lawrence Carin",
        2020,
        "",
        "2011.08891",
    ),
    deviations="Not scaled to [0, 1]: the map has the units of the score. Bilinear upsampling with half-pixel centers.",
)
def hires_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    scale_layers: bool = False,
) -> Attribution:
    """Sum activation times gradient over the channels of a layer and keep the positive part.

    φ = up(max(Σ_k ∂f/∂A^k ⊙ A^k, 0)) (Eq. 5). Unlike Grad-CAM, the gradients are not averaged over the positions, so that for a
    linear head the value of a position is its contribution to the score. Returns (B, 1, H, W).

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
    maps = [positive_sum(probe.gradients * probe.activations) for probe in probes]
    return Attribution(average_layers(maps, x, scale=scale_layers), facts={"layer": name_layers(probes)})
