"""How a map is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sign = Literal["positive", "negative", "absolute", "signed"]
Reduce = Literal["sum", "mean", "abs-sum", "max"]


@dataclass(frozen=True)
class Look:
    """How a map is drawn. clip: percentiles that become the ends of the colour map. opacity: of the brightest colour."""

    clip: tuple[float, float] = (80.0, 99.0)
    sign: Sign = "positive"
    reduce: Reduce = "sum"
    cmap: str = "auto"
    opacity: float = 0.8

    @property
    def colours(self) -> str:
        """The colour map's name: inferno for magnitudes, a diverging one for signed maps."""
        if self.cmap != "auto":
            return self.cmap
        return "RdBu_r" if self.sign == "signed" else "inferno"
