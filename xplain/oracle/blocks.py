"""Blocks: rectangles of images and of the points wanted for each."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """A rectangle of work: points ``k0 .. k1`` of images ``i0 .. i1``."""

    images: slice
    points: slice

    @property
    def shape(self) -> tuple[int, int]:
        """(images, points) in the block."""
        return self.images.stop - self.images.start, self.points.stop - self.points.start

    def samples(self, device: torch.device) -> Tensor:
        """(k,) the indices of the block's points."""
        return torch.arange(self.points.start, self.points.stop, device=device)


def even_slices(length: int, parts: int) -> list[slice]:
    """``parts`` slices of even sizes that cover 0 .. length."""
    return [slice(*pair) for pair in pairwise(round(length * part / parts) for part in range(parts + 1))]
