"""Standard error: one-line messages, and progress with rate and time left on a terminal."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xplain.core.errors import InputError, ModelNote
from xplain.core.files import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from xplain.pipelines.explain import Progress


def say(message: str) -> None:
    """A line on stderr. Control characters (a file name may hold some) are shown, not sent."""
    try:
        print(f"xplain: {printable(message)}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it, and that changes nothing
        discard_output(2)


def put(*lines: str) -> bool:
    """Lines on stdout, sent at once; false when their reader has left (``| head``), and then nothing more is sent.

    Raises InputError when stdout cannot be written for another reason.
    """
    if not lines:
        return True
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        discard_output()
        return False
    except OSError as error:
        discard_output()
        raise InputError(
            f"cannot write to standard output: {error.strerror}", "make room, or write to a file"
        ) from None
    return True


def discard_output(stream: int = 1) -> None:
    """Send stdout (or stderr, 2) nowhere from now on, what it still holds too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextmanager
def show_notes() -> Iterator[None]:
    """Within, what is worth knowing about a model is said once on a line; --quiet puts a filter before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", ModelNote)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **rest: Any) -> None:
            if issubclass(category, ModelNote):
                say(f"note: {message}")
            else:
                usual(message, category, *place, **rest)

        warnings.showwarning = show
        yield


@contextmanager
def show_progress(wanted: bool) -> Iterator[Progress]:
    """A Progress shown by rich, if it is wanted and stderr is a terminal."""
    from xplain.pipelines.explain import Progress

    if not wanted or not sys.stderr.isatty():
        yield Progress()
        return
    with _bars() as bars:
        task = bars.add_task("", total=None, rate="")

        def advance(rows: int) -> None:
            bars.advance(task, rows)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:.0f} rows/s" if speed else "")

        yield Progress(lambda rows: bars.update(task, total=rows or None), advance)


@contextmanager
def show_counter(wanted: bool, unit: str = "images") -> Iterator[Callable[[float, float], None]]:
    """A function of (done, total) images or another unit, shown by rich, if it is wanted and stderr is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with _bars() as bars:
        task = bars.add_task("", total=None, rate="")

        def advance(done: float, total: float) -> None:
            speed = bars.tasks[0].speed
            rate = f"{done:.0f} of {total:.0f} {unit}" + (f", {speed:.2g}/s" if speed else "")
            bars.update(task, total=total, completed=done, rate=rate)

        yield advance


def _bars() -> Bars:
    """A progress display with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
