"""Count finished work for a progress display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnProgress = Callable[[float, float], None]  # (done, total)


def ignore_progress(done: float, total: float) -> None:
    """Do nothing."""


@dataclass
class ProgressCounter:
    """Finished work out of ``total``, in any unit, reported to ``on_progress``.

    Work is planned in parts. A part that needs less than planned, because it is already done, counts whole when it is finished.
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
        """Count finished work."""
        self.done += amount
        self._report()

    def finish_part(self) -> None:
        """Count everything planned so far as done."""
        self.done = self.planned
        self._report()

    def _report(self) -> None:
        self.on_progress(min(self.done, self.total), self.total)
