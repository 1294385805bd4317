"""Grad-CAM: the channels of a layer, weighted by their mean gradients."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import average_layers, name_layers, positive_sum
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layers


@method(
    "grad-cam",
    violates=frozenset({"sensitivity-a"}),
    starts_with="layers",
    paper=Paper(
        "Grad-CAM: visual explanations from deep networks via gradient-based localization",
        "Ramprasaath R. Selvaraju, Michael Cogswell, Abhishek Das, Ramakrishna Vedantam, Devi Parikh, Dhruv Batra",
        2017,
        "ICCV",
        "1610.02391",
    ),
    deviations="Not scaled to [0, 1]: the map has the units of the score. Bilinear upsampling with half-pixel centers.",
)
def grad_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    scale_layers: bool = False,
) -> Attribution:
    """Sum the channels of a layer, weighted by their mean gradients, and keep the positive part.

    φ = up(max(Σ_k α_k A^k, 0)), where α_k is the spatial mean of ∂f/∂A^k (Eq. 1 and 2). Returns (B, 1, H, W).

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
    maps = [positive_sum(probe.gradients.mean(dim=(2, 3), keepdim=True) * probe.activations) for probe in probes]
    return Attribution(average_layers(maps, x, scale=scale_layers), facts={"layer": name_layers(probes)})
