"""Attention relevance: propagate the positive part of attention weights times gradients through the layers."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._layer_maps import upsample
from xplain.models.layouts import LayoutText
from xplain.oracle import Oracle
from xplain.oracle.attention import patch_map, probe_attention


@method(
    "attention-relevance",
    undecided={"sensitivity-a": "requires attention"},
    paper=Paper(
        "Generic attention-model explainability for interpreting bi-modal and encoder-decoder transformers",
        "Hila Chefer, Shir Gur, Lior Wolf",
        2021,
        "ICCV",
        "2103.15679",
    ),
    deviations="Self-attention in an encoder only. If a model averages its patches and has no class token, the rows of the patches "
    "are averaged, without the identity. If an attention with one query of its own reads out the tokens, as in SigLIP, their row is "
    "Ā of that attention times R. Not scaled to [0, 1]. Bilinear upsampling to the image.",
)
def attention_relevance(oracle: Oracle, x: Tensor, y: Tensor, *, layout: LayoutText = "auto") -> Attribution:
    """Propagate attention weights times their positive gradients from the patches to the classified token.

    φ = up(row of the class token in R), where R starts as I, and each layer sets R ← R + Ā R, Ā = mean over heads of
    (∂f/∂A ⊙ A)⁺ (Eq. 5 and 6). The columns of class and register tokens are dropped. Never negative. Returns (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layout: the layout of the tokens, ``HxW`` or ``HxW+PREFIX``; ``auto``: decided by how they respond to changes of image regions.
    Raises UsageError for models without attention over one grid of tokens in a known order.
    """
    result = probe_attention(oracle, x, y, "attention-relevance", _mean_positive, layout=layout, differentiate=True)
    first = result.matrices[0]
    identity = torch.eye(first.shape[-1], dtype=first.dtype, device=x.device)
    relevance = identity.expand_as(first)
    for weights in result.matrices:
        relevance = relevance + weights @ relevance
    if result.pooling is None:
        relevance = relevance - identity
    return Attribution(upsample(patch_map(relevance, result), x))


def _mean_positive(weights: Tensor, gradients: Tensor | None) -> Tensor:
    """Return the positive part of weights times gradients, averaged over the heads: (B, N, N)."""
    assert gradients is not None
    return (weights * gradients).clamp(min=0).mean(dim=1)
