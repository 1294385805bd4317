"""Run deferred work, such as rendering and writing files, in a background thread and yield the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")
MAX_PENDING = 4  # maximum number of pending results; each keeps its tensors in memory


@dataclass(frozen=True, eq=False)
class Deferred(Generic[T]):
    """A deferred computation. work: function that returns the result."""

    work: Callable[[], T]


def run_in_background(items: Iterable[T | Deferred[T]]) -> Iterator[T]:
    """Yield the results of ``items`` in order. A background thread runs the deferred work while the next items are computed.

    At most MAX_PENDING results are pending. If an item or its deferred work raises an exception (including KeyboardInterrupt), the earlier
    results are yielded before the exception is raised. Submitted work always runs to completion.
    """
    pending = deque[T | Future[T]]()
    with ThreadPoolExecutor(1) as thread:
        for item in _defer_error(items):
            pending.append(thread.submit(item.work) if isinstance(item, Deferred) else item)
            yield from _pop_finished(pending, MAX_PENDING)
        yield from _pop_finished(pending, 0)


def _defer_error(items: Iterable[T | Deferred[T]]) -> Iterator[T | Deferred[T]]:
    """Yield the items. If computing an item raises an exception, yield deferred work that raises it, and stop."""
    try:
        yield from items
    except (Exception, KeyboardInterrupt) as error:
        yield Deferred(partial(_raise, error))


def _raise(error: BaseException) -> NoReturn:
    raise error


def _pop_finished(pending: deque[T | Future[T]], most: int) -> Iterator[T]:
    """Remove and yield finished results from the front of the queue, and wait for more results until at most ``most`` are pending."""
    while pending and (len(pending) > most or not isinstance(pending[0], Future) or pending[0].done()):
        first = pending.popleft()
        yield first.result() if isinstance(first, Future) else first
