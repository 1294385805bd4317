"""Scores along the lines from baselines to images."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.oracle import Oracle


def score_line(oracle: Oracle, x: Tensor, y: Tensor, start: Tensor, intervals: int) -> Tensor:
    """Return the scores (B, intervals + 1) at the ends of equal intervals of the lines from ``start`` to x, both (B, C, H, W)."""
    scores = x.new_zeros((len(x), intervals + 1))
    for block in oracle.blocks(x, intervals + 1):
        alpha = (block.point_indices(x.device).to(x.dtype) / intervals)[None, :, None, None, None]
        points = torch.lerp(start[block.images, None], x[block.images, None], alpha)
        scores[block.images, block.points] = oracle.block_scores(block, points, y)
    return scores
