"""Run deferred work, such as drawing and writing, in a background thread, and yield the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")
MAX_PENDING = 4  # results that wait for the thread; each holds the tensors that it works on


@dataclass(frozen=True, eq=False)
class Deferred(Generic[T]):
    """Work that is still to be done. work: a function that returns the result."""

    work: Callable[[], T]


def run_in_background(items: Iterable[T | Deferred[T]]) -> Iterator[T]:
    """Yield the results of ``items`` in order; one thread does the deferred work while further items are computed.

    At most MAX_PENDING results wait. If computing an item or its work fails, the results before it are yielded first, then the error
    (or KeyboardInterrupt) is raised. Work that has been submitted is finished in any case.
    """
    pending = deque[T | Future[T]]()
    with ThreadPoolExecutor(1) as thread:
        for item in _defer_error(items):
            pending.append(thread.submit(item.work) if isinstance(item, Deferred) else item)
            yield from _pop_finished(pending, MAX_PENDING)
        yield from _pop_finished(pending, 0)


def _defer_error(items: Iterable[T | Deferred[T]]) -> Iterator[T | Deferred[T]]:
    """Yield the items; if computing one raises, yield work that raises the same error, and stop."""
    try:
        yield from items
    except (Exception, KeyboardInterrupt) as error:
        yield Deferred(partial(_raise, error))


def _raise(error: BaseException) -> NoReturn:
    raise error


def _pop_finished(pending: deque[T | Future[T]], most: int) -> Iterator[T]:
    """Remove and yield the first results that are finished, and further ones until at most ``most`` are pending."""
    while pending and (len(pending) > most or not isinstance(pending[0], Future) or pending[0].done()):
        first = pending.popleft()
        yield first.result() if isinstance(first, Future) else first
