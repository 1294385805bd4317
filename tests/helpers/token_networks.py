"""Small transformers whose tokens lie in different orders."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.data.preprocessing import Preprocessing

TokenOrder = Literal["rows", "columns", "random", "random in the middle"]


class OrderedTokens(nn.Module):
    """A transformer with patches of 8 x 8 pixels, two blocks, and class tokens before or after the patches."""

    def __init__(
        self,
        size: tuple[int, int],
        order: TokenOrder = "rows",
        *,
        before: int = 0,
        after: int = 0,
        average: bool = False,
    ) -> None:
        super().__init__()
        count = size[0] * size[1] // 64
        self.order, self.average, self.after = order, average or before + after == 0, after
        self.patch = nn.Conv2d(3, 12, 8, 8)
        self.position = nn.Parameter(torch.randn(1, count, 12) / 10)
        self.before, self.behind = (nn.Parameter(torch.randn(1, number, 12)) for number in (before, after))
        self.register_buffer("permutation", torch.randperm(count))
        self.first, self.second = toys.Attend(12, 3, "fused"), toys.Attend(12, 3, "fused")
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x)
        tokens = (patches.mT if self.order == "columns" else patches).flatten(2).mT + self.position
        if self.order == "random":
            tokens = tokens[:, self.permutation]
        rows = len(x)
        tokens = self.first(
            torch.cat([self.before.expand(rows, -1, -1), tokens, self.behind.expand(rows, -1, -1)], dim=1)
        )
        if self.order == "random in the middle":
            before = self.before.shape[1]
            tokens = torch.cat([tokens[:, :before], tokens[:, before + self.permutation]], dim=1)
        tokens = self.norm(self.second(tokens))
        if self.average:
            return self.head(tokens.mean(dim=1))
        return self.head(tokens[:, -1] if self.after else tokens[:, 0])


def ordered_tokens(size: tuple[int, int] = (48, 64), order: TokenOrder = "rows", **options) -> xplain.Classifier:
    """Return a classifier of images of this size, always with the same random weights."""
    return seeded_classifier(lambda: OrderedTokens(size, order, **options), size)


def seeded_classifier(make, size: tuple[int, int]) -> xplain.Classifier:
    """Return the network that ``make`` makes with fixed random weights, as a classifier of images of this size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make().eval()
    return toys.classifier(network, preprocessing=Preprocessing(size=size))


def changed_cell(classifier: xplain.Classifier, read, row: int, column: int, side: int = 8) -> tuple[int, int]:
    """Return the cell of a map that changes most when a patch of the image changes.

    read: a function of images (1, C, H, W) to a map (1, K, h, w).
    """
    height, width = classifier.size
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 3, height, width, generator=generator)
    changed = image.clone()
    patch = torch.rand(3, side, side, generator=generator)
    changed[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = patch
    change = (read(changed) - read(image)).square().sum(dim=1)
    return divmod(int(change.flatten().argmax()), change.shape[-1])
