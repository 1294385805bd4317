"""Track progress for a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnProgress = Callable[[float, float], None]  # (done, total)


def ignore_progress(done: float, total: float) -> None:
    """Do nothing."""


@dataclass
class ProgressCounter:
    """Counter that reports finished and total work to ``on_progress``.

    Work is divided into parts. Finishing a part counts it completely, even if some of its work was already done.
    """

    on_progress: OnProgress
    total: float
    done: float = 0
    planned: float = 0

    def start_part(self, amount: float) -> None:
        """Plan the next part."""
        self.planned += amount
        self.on_progress(self.done, self.total)

    def advance(self, amount: float) -> None:
        """Count finished work."""
        self.done += amount
        self.on_progress(self.done, self.total)

    def finish_part(self) -> None:
        """Mark all work planned so far as done."""
        self.done = self.planned
        self.on_progress(self.done, self.total)
