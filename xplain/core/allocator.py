"""Memory that is freed stays with the process while the engine works.

The C library of Linux (glibc) otherwise takes every tensor above 32 MB as fresh pages from the kernel and gives them back when
it is freed. Clearing those pages was a third of a gradient's time (EfficientNet-Lite0, 16 rows, CPU). Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # the parameters' numbers in malloc.h
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20))
# the library's own, its moving thresholds where large tensors have taken them
_GIVE_BACK = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20), (_TOP_PAD, 128 << 10))
_lock = threading.Lock()
_depth = 0


@cache
def _library() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Within, memory that is freed is kept for what comes next; on leaving the outermost, what is free goes back."""
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _set(_KEEP)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _set(_GIVE_BACK)
                release_memory()


@contextmanager
def default_allocator() -> Iterator[None]:
    """Within, memory goes back as the C library does by itself, also inside ``retain_freed_memory``."""
    with _lock:
        if _depth:
            _set(_GIVE_BACK)
            release_memory()
    try:
        yield
    finally:
        with _lock:
            if _depth:
                _set(_KEEP)


def release_memory() -> None:
    """Give free memory back to the system now."""
    if (library := _library()) is not None:
        library.malloc_trim(0)


def _set(options: tuple[tuple[int, int], ...]) -> None:
    if (library := _library()) is not None:
        for name, value in options:
            library.mallopt(name, value)
