"""Layouts: which dimensions of a layer's output are the height and the width of the image, and in which order tokens lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from xplain.core.parameters import TextFormat

Size = tuple[int, int]  # height, width
Order = Literal["rows", "columns"]
MapKind = Literal["channels-first", "channels-last"]

MAP_KINDS: tuple[MapKind, ...] = ("channels-first", "channels-last")

LAYOUT_PATTERN = re.compile(r"(\d+)x(\d+)(?:\+(\d+))?")


@dataclass(frozen=True)
class Layout:
    """Memory layout of a map in an output.

    kind: (B, K, h, w), (B, h, w, K), or tokens (B, prefix + h w + suffix, K).
    grid: (h, w). prefix, suffix: the number of class and register tokens before and after the patches.
    order: the patches lie row by row or column by column.
    """

    kind: Literal["channels-first", "channels-last", "tokens"] = "channels-first"
    grid: Size = (0, 0)
    prefix: int = 0
    suffix: int = 0
    order: Order = "rows"

    @property
    def patches(self) -> slice:
        """The tokens that are patches."""
        return slice(self.prefix, self.prefix + self.grid[0] * self.grid[1])

    @property
    def tokens(self) -> int:
        """Number of tokens: prefix, patches and suffix."""
        return self.patches.stop + self.suffix

    def to_map(self, output: Tensor) -> Tensor:
        """Return an output of this layout as a map (B, K, h, w)."""
        if self.kind == "channels-first":
            return output
        if self.kind == "channels-last":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.patches].mT
        if self.order == "columns":
            return patches.unflatten(2, self.grid[::-1]).mT
        return patches.unflatten(2, self.grid)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an output of this shape can have the layout."""
        if self.kind == "tokens":
            return len(shape) == 3 and shape[1] == self.tokens
        return len(shape) == 4 and min(spatial_shape(self.kind, shape)) > 1

    def __str__(self) -> str:
        if self.kind != "tokens":
            return self.kind
        text = f"{self.grid[0]}x{self.grid[1]}"
        if self.prefix:
            text += f"+{self.prefix}"
        if self.suffix:
            text += f" and {self.suffix} at the end"
        return text + " column by column" * (self.order == "columns")


def spatial_shape(kind: MapKind, shape: tuple[int, ...]) -> Size:
    """Return the height and width in the shape of a four-dimensional output."""
    return (shape[2], shape[3]) if kind == "channels-first" else (shape[1], shape[2])


def read_layout(text: str) -> Layout | None:
    """Return the layout that a text names: HxW or HxW+PREFIX tokens, channels-first or channels-last; None for auto.

    Raises ValueError for any other text.
    """
    if text == "auto":
        return None
    for kind in MAP_KINDS:
        if text == kind:
            return Layout(kind)
    match = LAYOUT_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(text)
    height, width, prefix = (int(number or 0) for number in match.groups())
    if min(height, width) < 1:
        raise ValueError(text)
    return Layout("tokens", (height, width), prefix)


# One layer, or several: LAYER+LAYER, or a list of names.
LayerText = Annotated[str, TextFormat("the name of a layer, or several such as layer3+layer4", str, separator="+")]
LayoutText = Annotated[
    str, TextFormat("auto, HxW or HxW+PREFIX such as 14x14+1, channels-first or channels-last", read_layout)
]
