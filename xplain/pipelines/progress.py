"""Track progress for a progress bar, and count results that are kept if the command is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnProgress = Callable[[float, float], None]  # (done, total)
OnResults = Callable[[int, int], None]  # (kept, total): numbers of results on disk and of all results


def ignore_progress(done: float, total: float) -> None:
    """Do nothing."""


def ignore_results(kept: int, total: int) -> None:
    """Do nothing."""


@dataclass
class ResultCount:
    """The number of results that are on disk, which is reported to ``on_results``."""

    on_results: OnResults = ignore_results
    kept: int = 0
    total: int = 0

    def start(self, kept: int, total: int) -> None:
        """Report how many results an earlier run has left, and how many there will be."""
        self.kept, self.total = kept, total
        self.on_results(kept, total)

    def add(self, count: int) -> None:
        """Count results that were written."""
        self.kept += count
        self.on_results(self.kept, self.total)


@dataclass
class ProgressCounter:
    """Counter that reports finished and total work to ``on_progress``.

    Work is divided into parts. Finishing a part counts it completely, even if some of its work was already done.
    """

    on_progress: OnProgress
    total: float
    done: float = 0
    planned: float = 0

    def skip(self, amount: float) -> None:
        """Count work that an earlier run has done, before the first part."""
        self.done += amount
        self.planned += amount

    def start_part(self, amount: float) -> None:
        """Plan the next part."""
        self.planned += amount
        self._report()

    def advance(self, amount: float) -> None:
        """Count finished work, at most what is planned if parts are planned."""
        self.done += amount
        if self.planned:
            self.done = min(self.done, self.planned)
        self._report()

    def finish_part(self) -> None:
        """Mark all work planned so far as done."""
        self.done = self.planned
        self._report()

    def _report(self) -> None:
        self.on_progress(min(self.done, self.total), self.total)


@dataclass
class RowCounter:
    """Progress inside a batch of images, counted in model rows and reported as a share of its images.

    done: images before the batch. images: in the batch. rows: that the batch is expected to need; the share stays below one.
    """

    on_progress: OnProgress
    done: float
    images: int
    total: float
    rows: float
    finished: float = 0

    def advance(self, rows: float) -> None:
        """Count the rows of a model call."""
        self.finished += rows
        share = min(self.finished / max(self.rows, 1), 0.99)
        self.on_progress(self.done + share * self.images, self.total)
