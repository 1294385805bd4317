"""LayerCAM: a layer's activations weighted by their own positive gradients."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import positive_map
from xplain.oracle import Oracle


@method(
    "layer-cam",
    paper=Paper(
        "LayerCAM: exploring hierarchical class activation maps for localization",
        "Jiang, Zhang, Hou, Cheng, Wei",
        2021,
        "IEEE Transactions on Image Processing",
        journal=True,
    ),
    deviations="Not scaled to [0, 1], and one layer at a time: the paper scales the maps of shallow layers by tanh and fuses several.",
)
def layer_cam(oracle: Oracle, x: Tensor, y: Tensor, *, layer: str = "auto") -> Attribution:
    """The positive part of a layer's activations times their positive gradients, summed over the channels.

    φ = up(max(Σ_k max(∂f/∂A^k, 0) ⊙ A^k, 0)) (Eq. 6 to 8). Returns (B, 1, H, W).
    layer: a module's name; ``auto``: the last one with a spatial output in execution (given in ``facts``).
    Raises UsageError when the model has no such layer. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    probe = oracle.probe(x, y, layer)
    return Attribution(positive_map(probe.gradients.clamp(min=0) * probe.activations, x), facts={"layer": probe.layer})
