"""Attention rollout: the attention of all layers multiplied, residual connections included."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.grad_cam import stretch
from xplain.oracle import Oracle
from xplain.oracle.attention import patch_map, probe_attention


@method(
    "attention-rollout",
    alias="rollout",
    paper=Paper("Quantifying attention flow in transformers", "Abnar, Zuidema", 2020, "ACL", "2005.00928"),
    cost=lambda **_: (1, 0),
    deviations="Where a model averages its patches and has no class token, the rows of the patches are averaged. "
    "Bilinear up-sampling to the image.",
)
def attention_rollout(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """How much of each patch reaches the token that is classified, if attention were all that mixes tokens.

    φ = up(row of the class token in Â_L ... Â_1), Â = (mean over heads of A + I) / 2 (Section 3); the columns of class and register
    tokens are left out. The same for every target. Never negative. Returns (B, 1, H, W).
    Raises UsageError for models without attention over one grid of tokens. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    found = probe_attention(
        oracle, x, y, "attention-rollout", lambda weights, _: weights.mean(dim=1), differentiate=False
    )
    own = torch.eye(found.matrices[0].shape[-1], dtype=found.matrices[0].dtype, device=x.device)
    flow = own.expand_as(found.matrices[0])
    for weights in found.matrices:
        flow = (weights + own) / 2 @ flow
    return Attribution(stretch(patch_map(flow, found.tokens), x))
