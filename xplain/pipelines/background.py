"""Work that a thread does behind the caller, such as drawing and writing, while the caller makes what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")
MOST = 4  # that wait to be done: each holds what it works on


@dataclass(frozen=True, eq=False)
class Later(Generic[T]):
    """What gives a result, and is left to be done."""

    work: Callable[[], T]


def finish_behind(items: Iterable[T | Later[T]]) -> Iterator[T]:
    """The results in order. What is left to be done is done by one thread while ``items`` are made, at most MOST ahead.

    Where an item cannot be made or done, those before it come first, then its error (or the user's interruption). What was begun is
    finished in any case.
    """
    waiting = deque[T | Future[T]]()
    with ThreadPoolExecutor(1) as thread:
        for item in _with_error(items):
            waiting.append(thread.submit(item.work) if isinstance(item, Later) else item)
            yield from _take(waiting, MOST)
        yield from _take(waiting, 0)


def _with_error(items: Iterable[T | Later[T]]) -> Iterator[T | Later[T]]:
    """The items and, where they end with an error, that error as the last one's work."""
    try:
        yield from items
    except (Exception, KeyboardInterrupt) as error:
        yield Later(partial(_fail, error))


def _fail(error: BaseException) -> NoReturn:
    raise error


def _take(waiting: deque[T | Future[T]], most: int) -> Iterator[T]:
    """The first results: those that are there, and further ones until at most so many wait."""
    while waiting and (len(waiting) > most or not isinstance(waiting[0], Future) or waiting[0].done()):
        first = waiting.popleft()
        yield first.result() if isinstance(first, Future) else first
