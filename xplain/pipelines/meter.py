"""Seconds and memory of a piece of work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

_STATM = Path("/proc/self/statm")
SAMPLE_EVERY = 0.002  # seconds


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


def time_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of wall time; what the device still has to do is waited for, before and after."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes of memory that the work took at most, above what was taken before.

    On CUDA what tensors took; on Linux the process's resident memory, looked at every few milliseconds; elsewhere None,
    and the work is done all the same.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not _STATM.exists():
        work()
        return None
    before = _resident()
    highest, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_EVERY):
            highest[0] = max(highest[0], _resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return max(highest[0], _resident()) - before


def _resident() -> int:
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
