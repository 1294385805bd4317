"""Sums over even and odd samples of methods that add up independent samples."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.oracle.batching import Block


class SplitSums:
    """The sum of the odd samples of each image, from which follows that of the even ones. like: (B, C, H, W)."""

    def __init__(self, like: Tensor) -> None:
        self._odd = torch.zeros_like(like)

    def add(self, block: Block, values: Tensor) -> None:
        """Add the values (b, k, C, H, W) of a block of samples."""
        first = 1 - block.points.start % 2  # position of the first odd sample in the block
        self._odd[block.images] += values[:, first::2].sum(dim=1)

    def split(self, total: Tensor) -> Tensor:
        """Return the sums (B, 2, C, H, W) over the even and the odd samples, whose sum over all samples is ``total``."""
        return torch.stack([total - self._odd, self._odd], dim=1)
