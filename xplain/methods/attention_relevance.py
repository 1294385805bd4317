"""Attention relevance: the attention that raises the score, followed through the layers."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import stretch
from xplain.oracle import Oracle
from xplain.oracle.attention import patch_map, probe_attention


@method(
    "attention-relevance",
    paper=Paper(
        "Generic attention-model explainability for interpreting bi-modal and encoder-decoder transformers",
        "Chefer, Gur, Wolf",
        2021,
        "ICCV",
        "2103.15679",
    ),
    deviations="Self-attention in an encoder only. Where a model averages its patches and has no class token, the rows of the patches "
    "are averaged, without what each keeps of itself (I). Not scaled to [0, 1]. Bilinear up-sampling to the image.",
)
def attention_relevance(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Attention weights times their positive gradients, followed from the patches to the token that is classified.

    φ = up(row of the class token in R), R = I at first, then R ← R + Ā R in each layer, Ā = mean over heads of (∂f/∂A ⊙ A)⁺ (Eq. 5
    and 6); the columns of class and register tokens are left out. Never negative. Returns (B, 1, H, W).
    Raises UsageError for models without attention over one grid of tokens. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    found = probe_attention(oracle, x, y, "attention-relevance", _positive, differentiate=True)
    own = torch.eye(found.matrices[0].shape[-1], dtype=found.matrices[0].dtype, device=x.device)
    relevance = own.expand_as(found.matrices[0])
    for weights in found.matrices:
        relevance = relevance + weights @ relevance
    return Attribution(stretch(patch_map(relevance - own, found.tokens), x))


def _positive(weights: Tensor, slopes: Tensor | None) -> Tensor:
    """(B, N, N) the mean over heads of the weights whose growth raises the score, times how much."""
    assert slopes is not None
    return (weights * slopes).clamp(min=0).mean(dim=1)
