"""Rounds of points per image: an image gets more points until its error is within the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.oracle import Oracle
from xplain.oracle.batching import Block

Count = int | Literal["auto"]  # points per image; auto: as many as the tolerance requires
FIRST_SAMPLES = 32  # of the first round of samples; their number grows by an eighth per round
MIN_NEW_SAMPLES = 16  # per round; even, because samples can come in pairs

# A function of the indices (N,) of images and their number of points, to their errors (N,).
ErrorFunction = Callable[[Tensor, int], Tensor]


def max_count(count: Count, limit: int) -> int:
    """Return the maximum number of points per image. limit: that of ``auto``."""
    return limit if count == "auto" else count


def sample_rounds(limit: int, first: int = FIRST_SAMPLES) -> list[int]:
    """Return the numbers of samples at the ends of the rounds; the last one is ``limit``."""
    ends = [min(first, limit)]
    while ends[-1] < limit:
        new = max(ends[-1] // 8 // MIN_NEW_SAMPLES * MIN_NEW_SAMPLES, MIN_NEW_SAMPLES)
        ends.append(min(ends[-1] + new, limit))
    return ends


def check_auto(name: str, option: str, count: Count, tolerance: float, default: float) -> None:
    """Raise UsageError for a tolerance that is not the default although the number of points is fixed.

    name: of the method. option: the parameter of the number of points.
    """
    if count != "auto" and tolerance != default:
        raise UsageError(
            f"{name}: tolerance={tolerance:g} requires {option}=auto", f"add {option}=auto or remove tolerance"
        )


class Rounds:
    """Blocks of points per image, in rounds that leave out the images whose error is within the tolerance.

    x: images (B, C, H, W). ends: the numbers of points per image at the ends of the rounds.
    error: called at the end of each round, on the images that had points in it.
    images: the indices (N,) of the images that have rounds; default: all.
    counts: (B,) points per image so far. errors: (B,) of the last round of each image.
    The rounds of an image do not depend on the other images.
    """

    def __init__(
        self,
        oracle: Oracle,
        x: Tensor,
        ends: Sequence[int],
        tolerance: float,
        error: ErrorFunction,
        images: Tensor | None = None,
    ) -> None:
        self._oracle, self._x, self._error = oracle, x, error
        self._ends, self._tolerance = ends, tolerance
        self._images = torch.arange(len(x), device=x.device) if images is None else images
        self.counts = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.errors = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of all rounds."""
        active = self._images
        for start, end in pairwise([0, *self._ends]):
            if not len(active):
                return
            yield from self._oracle.blocks(self._x, range(start, end), active)
            errors = self._error(active, end)
            self.counts[active], self.errors[active] = end, errors
            active = active[errors > self._tolerance]  # the only wait for the device in a round

    def describe(self, points: str) -> dict[str, Tensor]:
        """Return the ``details`` of an attribution: the number of points, and whether the tolerance was reached. points: their name."""
        return {points: self.counts, "tolerance_reached": self.errors <= self._tolerance}

    def flag(self, points: str) -> dict[str, Tensor]:
        """Return the flag of the images that took the maximum number of points before. points: their name."""
        missed = ~(self.errors <= self._tolerance)
        return {f"the tolerance {self._tolerance:g} was not reached with {self._ends[-1]} {points}": missed}
