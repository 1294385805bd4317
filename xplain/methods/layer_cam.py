"""LayerCAM: the activations of a layer, weighted by their positive gradients."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import positive_map
from xplain.models.layouts import LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layer


@method(
    "layer-cam",
    violates=frozenset({"sensitivity-a"}),
    paper=Paper(
        "LayerCAM: exploring hierarchical class activation maps for localization",
        "Peng-Tao Jiang, Chang-Bin Zhang, Qibin Hou, Ming-Ming Cheng, Yunchao Wei",
        2021,
        "IEEE Transactions on Image Processing",
        journal=True,
    ),
    deviations="Not scaled to [0, 1], and of one layer: the paper scales the maps of shallow layers by tanh and fuses several.",
)
def layer_cam(oracle: Oracle, x: Tensor, y: Tensor, *, layer: str = "auto", layout: LayoutText = "auto") -> Attribution:
    """Sum activation times positive gradient over the channels of a layer and keep the positive part.

    φ = up(max(Σ_k max(∂f/∂A^k, 0) ⊙ A^k, 0)) (Eq. 6 to 8). Returns (B, 1, H, W).
    x: (B, C, H, W) in [0, 1]. y: (B,).
    layer: the name of a module; ``auto``: the last module in execution order with a spatial output, recorded in ``facts``.
    layout: the layout of the layer's output: ``HxW`` or ``HxW+PREFIX`` for tokens, ``channels-first`` or ``channels-last``; ``auto``:
    decided by module types and by how the layer responds to changes of image regions.
    Raises UsageError if the model has no such layer.
    """
    probe = probe_layer(oracle, x, y, layer, layout)
    return Attribution(positive_map(probe.gradients.clamp(min=0) * probe.activations, x), facts={"layer": probe.layer})
