"""What the oracle answers with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from xplain.oracle.attention import Tokens


class GradientResult(NamedTuple):
    """scores (rows,) or (rows, S); gradients (rows, C, H, W) or (rows, S, C, H, W); predicted (rows,) top classes."""

    scores: Tensor
    values: Tensor
    predicted: Tensor


class PropagationResult(NamedTuple):
    """scores (B,); gradients (B, S, C, H, W) by the rules, for the images and each stream; sums that the rules added up."""

    scores: Tensor
    gradients: Tensor
    sums: dict[str, Tensor]


class AttentionResult(NamedTuple):
    """matrices: what was made of the attention of each layer, (B, N, N) in order; tokens: what they run over."""

    matrices: list[Tensor]
    tokens: Tokens
