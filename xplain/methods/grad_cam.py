"""Grad-CAM: the channels of a layer, weighted by their mean gradients."""

import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.models.layouts import LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layer


@method(
    "grad-cam",
    violates=frozenset({"sensitivity-a"}),
    paper=Paper(
        "Grad-CAM: visual explanations from deep networks via gradient-based localization",
        "Ramprasaath R. Selvaraju, Michael Cogswell, Abhishek Das, Ramakrishna Vedantam, Devi Parikh, Dhruv Batra",
        2017,
        "ICCV",
        "1610.02391",
    ),
    deviations="Not scaled to [0, 1]: the map has the units of the score. Bilinear upsampling with half-pixel centers.",
)
def grad_cam(oracle: Oracle, x: Tensor, y: Tensor, *, layer: str = "auto", layout: LayoutText = "auto") -> Attribution:
    """Sum the channels of a layer, weighted by their mean gradients, and keep the positive part.

    φ = up(max(Σ_k α_k A^k, 0)), where α_k is the spatial mean of ∂f/∂A^k (Eq. 1 and 2). Returns (B, 1, H, W).
    x: (B, C, H, W) in [0, 1]. y: (B,).
    layer: the name of a module; ``auto``: the last module in execution order with a spatial output, recorded in ``facts``.
    layout: the layout of the layer's output: ``HxW`` or ``HxW+PREFIX`` for tokens, ``channels-first`` or ``channels-last``; ``auto``:
    decided by module types and by how the layer responds to changes of image regions.
    Raises UsageError if the model has no such layer.
    """
    probe = probe_layer(oracle, x, y, layer, layout)
    weights = probe.gradients.mean(dim=(2, 3), keepdim=True)
    return Attribution(positive_map(weights * probe.activations, x), facts={"layer": probe.layer})


def positive_map(channels: Tensor, x: Tensor) -> Tensor:
    """Return the positive part (B, 1, H, W) of the sum of channels (B, K, h, w), upsampled to the images x (B, C, H, W)."""
    return upsample(channels.sum(dim=1, keepdim=True).clamp(min=0), x)


def upsample(maps: Tensor, x: Tensor) -> Tensor:
    """Return maps (B, K, h, w) at the size and in the type of the images x: bilinear, with half-pixel centers."""
    return F.interpolate(maps, size=x.shape[-2:], mode="bilinear", align_corners=False).to(x.dtype)
