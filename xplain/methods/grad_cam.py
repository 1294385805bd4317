"""Grad-CAM: a layer's channels weighted by their mean gradients."""

import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.oracle import Oracle


@method(
    "grad-cam",
    paper=Paper(
        "Grad-CAM: visual explanations from deep networks via gradient-based localization",
        "Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra",
        2017,
        "ICCV",
        "1610.02391",
    ),
    deviations="Not scaled to [0, 1]: units are the score's. Bilinear up-sampling to the image (half-pixel centres).",
)
def grad_cam(oracle: Oracle, x: Tensor, y: Tensor, *, layer: str = "auto") -> Attribution:
    """The positive part of a layer's channels, weighted by the spatial means of their gradients.

    φ = up(max(Σ_k α_k A^k, 0)), α_k = mean over space of ∂f/∂A^k. Returns (B, 1, H, W).
    layer: a module's name; ``auto``: the last one with a spatial output in execution (given in ``facts``).
    Raises UsageError when the model has no such layer. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    probe = oracle.probe(x, y, layer)
    weights = probe.gradients.mean(dim=(2, 3), keepdim=True)
    return Attribution(positive_map(weights * probe.activations, x), facts={"layer": probe.layer})


def positive_map(channels: Tensor, x: Tensor) -> Tensor:
    """(B, 1, H, W) the positive part of the sum of channels (B, K, h, w), stretched to the images x (B, C, H, W)."""
    return stretch(channels.sum(dim=1, keepdim=True).clamp(min=0), x)


def stretch(maps: Tensor, x: Tensor) -> Tensor:
    """Maps (B, K, h, w) at the size and in the type of the images x, bilinear with half-pixel centres."""
    return F.interpolate(maps, size=x.shape[-2:], mode="bilinear", align_corners=False).to(x.dtype)
