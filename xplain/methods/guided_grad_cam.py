"""Guided Grad-CAM: guided backpropagation times Grad-CAM."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import grad_cam
from xplain.methods.guided_backprop import guided_backprop
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle


@method(
    "guided-grad-cam",
    violates=frozenset({"sensitivity-a"}),
    slopes=True,
    paper=Paper(
        "Grad-CAM: visual explanations from deep networks via gradient-based localization",
        "Ramprasaath R. Selvaraju, Michael Cogswell, Abhishek Das, Ramakrishna Vedantam, Devi Parikh, Dhruv Batra",
        2017,
        "ICCV",
        "1610.02391",
    ),
    cost=lambda **_: (2, 2),
    deviations="Bilinear upsampling of the Grad-CAM map, as in the paper; captum defaults to nearest neighbors.",
)
def guided_grad_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    scale_layers: bool = False,
) -> Attribution:
    """Multiply guided backpropagation by the upsampled Grad-CAM map.

    φ = guided-backprop ⊙ up(Grad-CAM). Neither complete nor invariant to the implementation.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layer, layout, scale_layers: as in ``grad-cam``.
    Raises UsageError if either method does.
    """
    coarse = grad_cam(oracle, x, y, layer=layer, layout=layout, scale_layers=scale_layers)
    return Attribution(coarse.values * guided_backprop(oracle, x, y).values, facts=coarse.facts)
