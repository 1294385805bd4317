"""Ablation-CAM: the channels of a layer, weighted by the drop of the score when the channel is set to zero."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import average_layers, name_layers, positive_sum
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.channel_ablation import score_without_channels
from xplain.oracle.layers import probe_layers, split_layers

MAX_CHANNELS = 2048  # of a layer; the listed cost assumes it


@method(
    "ablation-cam",
    violates=frozenset({"sensitivity-a"}),
    access="layers",
    paper=Paper(
        "Ablation-CAM: visual explanations for deep convolutional network via gradient-free localization",
        "Saurabh Desai, Harish G. Ramaswamy",
        2020,
        "WACV",
    ),
    cost=lambda layer, **_: (len(split_layers(layer)) * MAX_CHANNELS + 1, 0),
    at_most=True,
    parallel=lambda **_: 512,
    deviations="The weights are the drops of the score, in its units. Other programs divide them by the score, which scales the map and "
    "changes the sign of every weight if the score is negative. pytorch-grad-cam sets a channel to the minimum of the layer minus 10^7 "
    "unless that minimum is 0. Class and register tokens are not changed. The cost is one forward row per channel of the layer; the "
    "cost that is listed assumes 2048 channels. The layers before it run once per image and model call where the model allows that.",
)
def ablation_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    scale_layers: bool = False,
) -> Attribution:
    """Sum the channels of a layer, weighted by the drop of the score without the channel, and keep the positive part.

    φ = up(max(Σ_k w_k A^k, 0)), w_k = f - f_k, where f_k is the score when A^k is replaced by zeros. Returns (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layer: the name of a module; ``auto``: the last module in execution order with a spatial output, recorded in ``facts``. The maps of
    several, such as ``layer3+layer4``, are upsampled and averaged.
    layout: the layout of the layer's output: ``HxW`` or ``HxW+PREFIX`` for tokens, ``channels-first`` or ``channels-last``; ``auto``:
    decided by module types and by how the layer responds to changes of image regions.
    scale_layers: scale the map of each of several layers to [0, 1] first, as pytorch-grad-cam does; otherwise the maps keep the units of
    the score, and layers with larger maps count more.
    Raises UsageError if the model has no such layer.
    """
    probes = probe_layers(oracle, x, y, layer, layout, differentiate=False)
    maps = []
    for probe in probes:
        weights = probe.scores[:, None] - score_without_channels(oracle, x, y, probe)
        maps.append(positive_sum(weights[:, :, None, None] * probe.activations))
    return Attribution(average_layers(maps, x, scale=scale_layers), facts={"layer": name_layers(probes)})
