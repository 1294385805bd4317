"""Attention rollout: the product of the attention matrices of all layers, with residual connections."""

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
    "attention-rollout",
    undecided={"sensitivity-a": "requires attention"},
    access="layers",
    alias="rollout",
    paper=Paper(
        "Quantifying attention flow in transformers", "Samira Abnar, Willem Zuidema", 2020, "ACL", "2005.00928"
    ),
    cost=lambda **_: (1, 0),
    deviations="If a model averages its patches and has no class token, the rows of the patches are averaged. If an attention with "
    "one query of its own reads out the tokens, as in SigLIP, its weights take the place of the row. "
    "Bilinear upsampling to the image.",
)
def attention_rollout(oracle: Oracle, x: Tensor, y: Tensor, *, layout: LayoutText = "auto") -> Attribution:
    """Multiply the attention matrices of all layers, with residual connections.

    φ = up(row of the class token in Â_L ... Â_1), Â = (mean over heads of A + I) / 2 (Section 3): the share of each patch in
    the classified token, if attention alone mixed the tokens. The columns of class and register tokens are dropped. The
    target has no effect. Never negative. Returns (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layout: the layout of the tokens, ``HxW`` or ``HxW+PREFIX``; ``auto``: decided by how they respond to changes of image regions.
    Raises UsageError for models without attention over one grid of tokens in a known order.
    """
    result = probe_attention(oracle, x, y, "attention-rollout", _mean_heads, layout=layout, differentiate=False)
    first = result.matrices[0]
    identity = torch.eye(first.shape[-1], dtype=first.dtype, device=x.device)
    flow = identity.expand_as(first)
    for weights in result.matrices:
        flow = (weights + identity) / 2 @ flow
    return Attribution(upsample(patch_map(flow, result), x))


def _mean_heads(weights: Tensor, gradients: Tensor | None) -> Tensor:
    """Return the mean over heads (B, N, N)."""
    return weights.mean(dim=1)
