"""Weighted linear regression of the score on the visible segments."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.oracle import Oracle
from xplain.oracle.batching import Block


class SegmentRegression:
    """Sums of a weighted regression of the score on the visible segments, z ∈ {0, 1}^K with z_0 = 1; all float64.

    x: images (B, C, H, W). y: target classes (B,). labels: segments (B, H, W). fill: (B, C, H, W), shown in hidden segments.
    counts: number of segments per image (B,). exists: (B, K) bool, whether the image has the segment.
    gram: Σ_i π_i z_i z_iᵀ (B, K + 1, K + 1). moments: Σ_i π_i z_i f(x_i) (B, K + 1).
    """

    def __init__(self, oracle: Oracle, x: Tensor, y: Tensor, labels: Tensor, fill: Tensor) -> None:
        self._oracle, self._x, self._y, self._labels, self._fill = oracle, x, y, labels, fill
        self.counts = labels.amax(dim=(1, 2)) + 1
        self.size = int(self.counts.max())
        self.exists = torch.arange(self.size, device=x.device) < self.counts[:, None]
        self.gram = torch.zeros(len(x), self.size + 1, self.size + 1, dtype=torch.float64, device=x.device)
        self.moments = torch.zeros(len(x), self.size + 1, dtype=torch.float64, device=x.device)

    def add(self, block: Block, visible: Tensor, weights: Tensor) -> Tensor:
        """Score the images of a block with only the ``visible`` segments, add them to the sums, and return the scores (b, k).

        visible: (b, k, K) bool. weights: π (b, k), float64.
        """
        visible = visible.double()
        scores = self._oracle.block_scores(block, self._mask(block, visible), self._y)
        rows = torch.cat([torch.ones_like(visible[:, :, :1]), visible], dim=2)
        weighted = weights[:, :, None] * rows
        self.gram[block.images] += weighted.mT @ rows
        self.moments[block.images] += (weighted.mT @ scores.double()[:, :, None])[:, :, 0]
        return scores

    def _mask(self, block: Block, visible: Tensor) -> Tensor:
        """Return the images (b, k, C, H, W) with hidden segments replaced by the fill."""
        images = block.images
        index = self._labels[images].flatten(1)[:, None].expand(-1, block.shape[1], -1)
        mask = visible.gather(2, index).unflatten(2, self._labels.shape[1:])[:, :, None]
        return torch.where(mask > 0, self._x[images, None], self._fill[images, None])
