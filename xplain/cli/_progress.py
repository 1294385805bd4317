"""Terminal progress bars with percentage, rate, elapsed time and remaining time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xplain.cli._results import ResultLog
from xplain.pipelines.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def show_progress(wanted: bool, unit: str, results: ResultLog | None = None) -> Iterator[OnProgress]:
    """Yield a callback ``(done, total)`` that updates a progress bar if ``wanted`` is true and stderr is a terminal.

    unit: plural name of the unit, such as "images". results: the numbers of these units, if ``done`` and ``total`` count smaller steps.
    """
    if not wanted or not sys.stderr.isatty():
        yield ignore_progress
        return
    with _make_bars() as bars:
        task = bars.add_task("", total=None, rate="")

        def update(done: float, total: float) -> None:
            count, of = (done, total) if results is None else results.numbers
            speed = (bars.tasks[0].speed or 0) * (of / total if total else 0)
            rate = f"{count:.0f} of {of:.0f} {unit}" + (f", {speed:.2g} {unit}/s" if speed else "")
            bars.update(task, total=total or None, completed=done, rate=rate)

        yield update


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # results on a pipe must not go to the terminal
        transient=True,
    )
