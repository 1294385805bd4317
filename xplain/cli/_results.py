"""How many results of a command are kept when it is interrupted and when it resumes."""

from __future__ import annotations

from xplain.cli._console import log


class ResultLog:
    """The number of finished results of the running command. It is called with the numbers of kept and of all results.

    The first call of a part, such as a model, prints how many results an earlier run has left, if some but not all are there.
    """

    def __init__(self) -> None:
        self.start_part()

    def start_part(self) -> None:
        """Forget the numbers of the previous part."""
        self._kept = self._total = 0
        self._is_started = False

    def __call__(self, kept: int, total: int) -> None:
        self._kept, self._total = kept, total
        if not self._is_started and 0 < kept < total:
            log.info("%d of %d results are kept from an earlier command; computing the others", kept, total)
        self._is_started = True

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of finished and of all results."""
        return self._kept, self._total

    def describe(self) -> str:
        """Return a clause on the kept results for the message of an interruption."""
        if not self._is_started:
            return "finished results are kept"
        return f"{self._kept} of {self._total} results are kept"


RESULTS = ResultLog()  # of the command that runs in this process
