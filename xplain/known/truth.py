"""What a mechanism gives: a network, images for it, and the truth about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32  # height and width of the images
BLOCK = 4  # side of a patch
GRID = SIDE // BLOCK  # patches per row


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers of one network and its images.

    seed: of this draw. count: number of images. run_seed: of the run, which trained networks share. group: number of the draw.
    """

    seed: int
    count: int
    run_seed: int = 0
    group: int = 0

    @cached_property
    def generator(self) -> torch.Generator:
        """A generator with the seed of the draw."""
        return torch.Generator().manual_seed(self.seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw uniformly from [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        """Draw from the standard normal distribution."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def integer(self, below: int) -> int:
        """Draw an integer from 0 .. below - 1."""
        return int(torch.randint(below, (1,), generator=self.generator))

    def order(self, count: int) -> Tensor:
        """Draw a permutation of 0 .. count - 1."""
        return torch.randperm(count, generator=self.generator)


@dataclass(frozen=True, eq=False)
class Planted:
    """A network in float64, images for it, and the truth about the logit of a class.

    images: (B, 3, SIDE, SIDE) in [0, 1]. classes: (B,) the explained classes; None for class 0.
    relevant: (B, 1, SIDE, SIDE): 1 where the score depends on the pixel, 0 where it does not, NaN where that is a convention; or None.
    relevant_to_others: the same for scores that compare the classes, if it differs.
    signs: (B, 1, SIDE, SIDE) sign of the contribution, 0 where it has none; None if the sign is unknown.
    values: (B, GRID²) contribution of each block to the change of the score from the black image, or None.
    parts: (B, P, SIDE, SIDE) masks of the parts of the image. effects: (B, P) what each part adds to the score. NaN in both columns
    of a part that an image does not have. None if no parts are known.
    is_even: all parts of an image have the same effect.
    has_mixed_signs: relevant pixels contribute with signs that are not known, so that only magnitudes tell which are relevant.
    """

    network: nn.Module
    images: Tensor
    relevant: Tensor | None = None
    relevant_to_others: Tensor | None = None
    signs: Tensor | None = None
    values: Tensor | None = None
    parts: Tensor | None = None
    effects: Tensor | None = None
    is_even: bool = False
    classes: Tensor | None = None
    has_mixed_signs: bool = False

    @property
    def targets(self) -> Tensor:
        """The explained class (B,) of each image."""
        if self.classes is not None:
            return self.classes
        return torch.zeros(len(self.images), dtype=torch.long)

    def take(self, index: Sequence[int]) -> Planted:
        """Return the images at an index."""
        chosen = list(index)
        tensors: dict[str, Any] = {
            name: value[chosen] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    @property
    def has_negative(self) -> bool:
        """Whether pixels contribute negatively, so that only the magnitude of a map tells which pixels are relevant."""
        return self.has_mixed_signs or (self.signs is not None and bool((self.signs < 0).any()))

    @property
    def truth_map(self) -> Tensor:
        """The best map (B, 1, SIDE, SIDE): the contribution of each relevant pixel, or 1 and -1 if only the sign is known."""
        assert self.relevant is not None
        inside = (self.relevant == 1).to(self.images.dtype)
        if self.values is not None:
            return inside * from_blocks(self.values) / BLOCK**2
        if self.signs is None:
            return inside
        return inside * torch.where(self.signs < 0, -1.0, 1.0)


def from_blocks(values: Tensor) -> Tensor:
    """Return pixels (B, 1, SIDE, SIDE) with the value of their block (B, GRID²)."""
    grid = values.reshape(-1, 1, GRID, GRID)
    return F.interpolate(grid, scale_factor=BLOCK, mode="nearest")


def sum_blocks(maps: Tensor) -> Tensor:
    """Return the sums (B, GRID²) of maps (B, 1, SIDE, SIDE) over the pixels of each block."""
    return F.avg_pool2d(maps, BLOCK).flatten(1) * BLOCK**2
