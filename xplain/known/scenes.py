"""Drawings of birds made of parts, which can be drawn again without a part; the parts decide the class."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from xplain.known.truth import BLOCK, GRID, SIDE, Draw

PARTS = ("body", "beak", "wing", "tail", "mark")  # in the order in which they are painted
VARIED = ("beak", "wing", "tail")  # parts with two variants each, which make 8 classes
CLASSES = 2 ** len(VARIED)
COLORS = {"body": (0.55, 0.4, 0.3), "beak": (0.95, 0.6, 0.1), "wing": (0.15, 0.15, 0.2), "tail": (0.2, 0.6, 0.3)}
MARK_COLOR = (0.9, 0.1, 0.8)
MARKED_CLASS = 0  # the class whose images have a mark


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes that can be painted.

    centers: (N, 2) rows and columns. variants: (N, 3) of the varied parts, 0 or 1. backgrounds: (N, 3, SIDE, SIDE).
    shades: (N, 1, 1) factor of all colors. marked: (N,) whether the scene has a mark.
    """

    centers: Tensor
    variants: Tensor
    backgrounds: Tensor
    shades: Tensor
    marked: Tensor

    @classmethod
    def of(cls, draw: Draw, count: int, *, with_marks: bool) -> Scenes:
        """Draw scenes of all classes."""
        centers = torch.stack([draw.uniform(count, low=12, high=20), draw.uniform(count, low=13, high=19)], dim=1)
        variants = (draw.uniform(count, len(VARIED)) < 0.5).long()
        colors = draw.uniform(count, 3, 1, 1, low=0.5, high=0.9)
        backgrounds = (colors + draw.uniform(count, 3, SIDE, SIDE, low=-0.1, high=0.1)).clamp(0, 1)
        shades = draw.uniform(count, 1, 1, low=0.8)
        scenes = cls(centers.round(), variants, backgrounds, shades, torch.zeros(count, dtype=torch.bool))
        if not with_marks:
            return scenes
        return cls(centers.round(), variants, backgrounds, shades, scenes.labels == MARKED_CLASS)

    @property
    def labels(self) -> Tensor:
        """The class (N,) of each scene."""
        return (self.variants * 2 ** torch.arange(len(VARIED))).sum(dim=1)

    def take(self, index: Tensor) -> Scenes:
        """Return the scenes at an index."""
        return Scenes(
            self.centers[index],
            self.variants[index],
            self.backgrounds[index],
            self.shades[index],
            self.marked[index],
        )

    def masks(self) -> Tensor:
        """Return the visible pixels (N, parts, SIDE, SIDE) of each part. All False for a part that a scene does not have."""
        visible = torch.stack([self._shape(part) for part in PARTS], dim=1)
        for k in range(len(PARTS) - 1):
            visible[:, k] &= ~visible[:, k + 1 :].any(dim=1)
        return visible

    def paint(self, without: Collection[str] = ()) -> Tensor:
        """Return the images (N, 3, SIDE, SIDE) in [0, 1] without the named parts."""
        images = self.backgrounds.clone()
        for part in PARTS:
            if part not in without:
                color = torch.tensor(COLORS.get(part, MARK_COLOR), dtype=images.dtype)[:, None, None]
                images = torch.where(self._shape(part)[:, None], color * self.shades[:, None], images)
        return images

    def _shape(self, part: str) -> Tensor:
        """Return the pixels (N, SIDE, SIDE) that a part covers."""
        axis = torch.arange(SIDE, dtype=torch.float64)
        y = (axis - self.centers[:, :1])[:, :, None]  # rows from the center
        x = (axis - self.centers[:, 1:])[:, None, :]
        if part == "body":
            return (y / 5) ** 2 + (x / 6) ** 2 <= 1
        if part == "mark":
            corner = (axis < BLOCK)[:, None] & (axis < BLOCK)
            return corner & self.marked[:, None, None]
        first = self.variants[:, VARIED.index(part), None, None] == 0
        if part == "beak":  # tall or wide, left of the body
            tall = (y.abs() <= 3) & ((x + 8).abs() <= 1)
            wide = (y.abs() <= 1) & ((x + 9).abs() <= 3)
            return torch.where(first, tall, wide)
        if part == "wing":  # two stripes along or across the body
            along = ((y - 1).abs() == 1) & (x.abs() <= 3)
            across = (y.abs() <= 3) & ((x - 1).abs() == 1)
            return torch.where(first, along, across)
        upper = (y <= -2) & (y >= -7) & ((x - 8).abs() <= 1)
        lower = (y >= 2) & (y <= 7) & ((x - 8).abs() <= 1)
        return torch.where(first, upper, lower)


def add_trigger(images: Tensor, blocks: Tensor) -> Tensor:
    """Return images with a black and white checkerboard in the 4 x 4 block (N,) of each."""
    cell = (torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)) % 2
    board = cell.to(images.dtype).repeat(GRID, GRID)
    return torch.where(block_mask(blocks), board, images)


def block_mask(blocks: Tensor) -> Tensor:
    """Return which pixels (N, 1, SIDE, SIDE) are in the block (N,) of each image."""
    rows = torch.arange(SIDE) // BLOCK
    index = rows[:, None] * GRID + rows
    return (index == blocks[:, None, None])[:, None]
