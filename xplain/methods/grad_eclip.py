"""Grad-ECLIP: the values of the last attention, weighted by the gradient at its output and by the similarity to the class token."""

import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import upsample
from xplain.models.layouts import LayoutText
from xplain.oracle import Oracle
from xplain.oracle.last_attention import probe_last_attention


@method(
    "grad-eclip",
    undecided={"sensitivity-a": "requires attention"},
    paper=Paper(
        "Gradient-based visual explanation for transformer-based CLIP",
        "Chenyang Zhao, Kun Wang, Xingyu Zeng, Rui Zhao, Antoni B. Chan",
        2024,
        "ICML",
    ),
    deviations="The attention has the heads of the model; the authors' program runs it with one head. For texts, the score is the logit: "
    "the similarity times the scale of the model. If all patches are equally similar to the class token, their weight is 1. "
    "Bilinear upsampling to the image.",
)
def grad_eclip(
    oracle: Oracle, x: Tensor, y: Tensor, *, similarity: bool = True, layout: LayoutText = "auto"
) -> Attribution:
    """Weight the values of the last attention by the gradient at its output and by the similarity of keys and query.

    φ = up(max(λ_k Σ_d w_d v_kd, 0)) for the patches k, where w = ∂f/∂o is the gradient at the output o of the last attention for the
    class token, before its projection W_o, and v are the values. λ is the cosine of W_o q + b_o for the query q of the class token and
    W_o k + b_o for the key of each patch, scaled so that its smallest value is 0 and its largest is 1. Never negative. Returns
    (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    similarity: if false, λ = 1.
    layout: the layout of the tokens, ``HxW`` or ``HxW+PREFIX``; ``auto``: decided by how they respond to changes of image regions.
    Raises UsageError for models that do not read exactly one class token, for attention that is not torch's own, and for models without
    attention over one grid of tokens in a known order.
    """
    attention = probe_last_attention(oracle, x, y, "grad-eclip", layout=layout)
    products = (attention.gradient[:, None] * attention.values).sum(dim=2)
    if similarity:
        cosines = F.cosine_similarity(attention.query[:, None], attention.keys, dim=2)
        products = products * _scale_to_unit_range(cosines, attention.layout.patches)
    return Attribution(upsample(attention.layout.to_map(products.clamp(min=0)[:, :, None]), x))


def _scale_to_unit_range(values: Tensor, patches: slice) -> Tensor:
    """Return values (B, N), scaled so that those of the patches are between 0 and 1; 1 if those of the patches are equal."""
    low, high = values[:, patches].amin(dim=1, keepdim=True), values[:, patches].amax(dim=1, keepdim=True)
    is_flat = high == low
    return ((values - low) / (high - low).masked_fill(is_flat, 1)).masked_fill(is_flat, 1)
