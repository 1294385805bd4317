"""The image that a thread is processing, so that the warnings of libraries can name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CurrentImage:
    """An image in progress. warned: the warnings that were printed for it."""

    name: str
    warned: set[str] = field(default_factory=set)


_CURRENT: ContextVar[CurrentImage | None] = ContextVar("current_image", default=None)


@contextmanager
def processing_image(name: str) -> Iterator[None]:
    """Let ``current_image`` return the image ``name`` in this thread while the block runs."""
    token = _CURRENT.set(CurrentImage(name))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_image() -> CurrentImage | None:
    """Return the image that this thread is processing, or None."""
    return _CURRENT.get()
