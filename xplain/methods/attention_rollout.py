"""Attention rollout: the product of the attention matrices of all layers, with residual connections."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import upsample
from xplain.oracle import Oracle
from xplain.oracle.attention import patch_map, probe_attention


@method(
    "attention-rollout",
    access="layers",
    alias="rollout",
    paper=Paper(
        "Quantifying attention flow in transformers", "Samira Abnar, Willem Zuidema", 2020, "ACL", "2005.00928"
    ),
    cost=lambda **_: (1, 0),
    deviations="If a model averages its patches and has no class token, the rows of the patches are averaged. "
    "Bilinear upsampling to the image.",
)
def attention_rollout(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Multiply the attention matrices of all layers, with residual connections.

    φ = up(row of the class token in Â_L ... Â_1), Â = (mean over heads of A + I) / 2 (Section 3): the share of each patch in
    the classified token, if attention alone mixed the tokens. The columns of class and register tokens are dropped. The
    target has no effect. Never negative. Returns (B, 1, H, W).
    x: (B, C, H, W) in [0, 1]. y: (B,). Raises UsageError for models without attention over one grid of tokens.
    """
    matrices, tokens = probe_attention(oracle, x, y, "attention-rollout", _mean_heads, differentiate=False)
    identity = torch.eye(matrices[0].shape[-1], dtype=matrices[0].dtype, device=x.device)
    flow = identity.expand_as(matrices[0])
    for weights in matrices:
        flow = (weights + identity) / 2 @ flow
    return Attribution(upsample(patch_map(flow, tokens), x))


def _mean_heads(weights: Tensor, gradients: Tensor | None) -> Tensor:
    """Return the mean over heads (B, N, N)."""
    return weights.mean(dim=1)
