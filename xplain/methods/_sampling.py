"""Independent samples of a map: a fixed number per image, or as many as the standard error of the map requires."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xplain.core.types import Attribution
from xplain.methods._rounds import FIRST_SAMPLES, Count, Rounds, sample_rounds
from xplain.oracle import Oracle
from xplain.oracle.batching import Block


class Sampling:
    """Blocks of samples for the mean of a map, and its standard error.

    The standard error is relative: √(Σ_p SE_p²) / ‖m‖, with the standard errors SE_p of the pixels p of the mean m.
    With independent samples v_i it is √((Σ_i ‖v_i‖² / n - ‖m‖²) / (n - 1)) / ‖m‖.

    x: images (B, C, H, W). samples: their number, or auto. tolerance: of the standard error.
    limit, first: maximum number of samples of auto, and their number in the first round.
    centered: the error of the map without its spatial mean.
    """

    def __init__(
        self,
        oracle: Oracle,
        x: Tensor,
        samples: Count,
        tolerance: float,
        limit: int,
        *,
        first: int = FIRST_SAMPLES,
        centered: bool = False,
    ) -> None:
        self._oracle, self._x, self._samples = oracle, x, samples
        self._rounds = Rounds(oracle, x, sample_rounds(limit, first), tolerance, self._find_errors)
        self._squares = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self._total: Tensor | None = None
        self._centered = centered

    def blocks(self) -> Iterator[Block]:
        """Return the blocks of all samples."""
        return self._rounds.blocks() if self._samples == "auto" else self._oracle.blocks(self._x, self._samples)

    def add(self, block: Block, values: Tensor) -> None:
        """Add the maps (b, k, C, H, W) of the samples of a block. Does nothing if the number of samples is fixed."""
        if self._samples != "auto":
            return
        if self._total is None:
            self._total = values.new_zeros(len(self._x), *values.shape[2:], dtype=torch.float64)
        self._total[block.images] += values.sum(dim=1, dtype=torch.float64)
        squares = torch.linalg.vector_norm(values, dim=(2, 3, 4), dtype=torch.float64).square()
        if self._centered:
            squares -= values.mean(dim=(2, 3, 4), dtype=torch.float64).square() * values[0, 0].numel()
        self._squares[block.images] += squares.sum(dim=1)

    @property
    def count(self) -> int | Tensor:
        """The number of samples; with auto (B, 1, 1, 1), per image, of the type of the images."""
        return self._rounds.counts.to(self._x)[:, None, None, None] if self._samples == "auto" else self._samples

    def attribution(self, values: Tensor, parts: Tensor | None = None) -> Attribution:
        """Return an attribution, which with auto holds the samples per image and their standard error."""
        if self._samples != "auto":
            return Attribution(values, parts=parts)
        details = self._rounds.describe("samples") | {"standard_error": self._rounds.errors}
        return Attribution(values, parts=parts, details=details, flags=self._rounds.flag("samples"))

    def _find_errors(self, images: Tensor, count: int) -> Tensor:
        """Return the relative standard errors (N,) of the images at the indices; infinite for one sample."""
        assert self._total is not None
        mean = self._total[images] / count
        if self._centered:
            mean = mean - mean.mean(dim=(1, 2, 3), keepdim=True)
        norm = mean.square().sum(dim=(1, 2, 3))
        if count == 1:
            return torch.full_like(norm, torch.inf)
        variance = (self._squares[images] / count - norm).clamp(min=0) / (count - 1)
        return torch.where(variance > 0, (variance / norm).sqrt(), 0)
