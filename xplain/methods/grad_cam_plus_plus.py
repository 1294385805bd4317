"""Grad-CAM++: a layer's channels weighted by their positive gradients, cell by cell."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import positive_map
from xplain.oracle import Oracle


@method(
    "grad-cam-plus-plus",
    paper=Paper(
        "Grad-CAM++: improved visual explanations for deep convolutional networks",
        "Chattopadhay, Sarkar, Howlader, Balasubramanian",
        2018,
        "WACV",
        "1710.11063",
    ),
    deviations="The factor e^f of the paper's exponential score is left out (it scales the whole map and overflows). Where a denominator "
    "is not positive, which takes negative activations, the cell counts nothing. pytorch-grad-cam adds 1e-6 to the denominator, which "
    "outweighs gradients below 1e-3 and then changes the weights; its map is the limit of large gradients.",
)
def grad_cam_plus_plus(oracle: Oracle, x: Tensor, y: Tensor, *, layer: str = "auto") -> Attribution:
    """The positive part of a layer's channels, weighted by weighted sums of their positive gradients.

    φ = up(max(Σ_k w_k A^k, 0)), w_k = Σ_ij a^k_ij max(g^k_ij, 0), g = ∂f/∂A,
    a^k_ij = g² / (2 g² + g³ Σ_ab A^k_ab) (Eq. 5, 19). Returns (B, 1, H, W).
    layer: a module's name; ``auto``: the last one with a spatial output in execution (given in ``facts``).
    Raises UsageError when the model has no such layer. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    probe = oracle.probe(x, y, layer)
    slope = probe.gradients.clamp(min=0)
    below = 2 + slope * probe.activations.sum(dim=(2, 3), keepdim=True)  # both sides of a divided by g²
    tiny = torch.finfo(below.dtype).tiny
    weights = torch.where(below > 0, slope / below.clamp(min=tiny), 0).sum(dim=(2, 3), keepdim=True)
    return Attribution(positive_map(weights * probe.activations, x), facts={"layer": probe.layer})
