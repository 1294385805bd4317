"""Measure the time and peak memory of implementations.

Runs are interleaved so that a slowdown of the machine affects all implementations equally.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from xplain.core.allocator import release_memory
from xplain.core.errors import XplainError, device_error, first_line
from xplain.core.types import Cost
from xplain.models.devices import synchronize

STATM = Path("/proc/self/statm")  # memory usage in pages; the second field is the resident set size
SAMPLE_INTERVAL = 0.002  # seconds between two samples of the resident memory


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of a nonempty sequence of values."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class RunStats:
    """Statistics of a run: its cost and its maximum batch size, which is None if the implementation does not report it."""

    cost: Cost = field(default_factory=Cost)
    rows_per_call: int | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """An implementation to time on ``images`` images.

    allocator: context manager that configures the memory allocator during the run.
    rows: batch size, or None for the default of the implementation.
    warm_up: function that runs before each timed run, to reallocate memory that the previous implementation released.
    """

    program: str
    images: int
    run: Callable[[], RunStats]
    allocator: Callable[[], AbstractContextManager[None]]
    rows: int | None = None
    warm_up: Callable[[], object] = lambda: None


@dataclass(eq=False)
class TimingResult:
    """The seconds of each round of a candidate, and the statistics and peak memory (bytes) of its first run.

    error: first line of the exception message of the first run, or "" if it succeeded. failure: the exception as an XplainError, or None if
    the user cannot fix it.
    """

    candidate: Candidate
    seconds: list[float] = field(default_factory=list)
    stats: RunStats = field(default_factory=RunStats)
    peak_memory: int | None = None
    error: str = ""
    failure: XplainError | None = None


def time_interleaved(candidates: Sequence[Candidate], rounds: int, device: torch.device) -> list[TimingResult]:
    """Run each candidate once to measure its memory. Then time all candidates in ``rounds`` interleaved rounds.

    If the first run of a candidate fails, the candidate is not timed and its result contains the error.
    """
    results = [_run_first(candidate, device) for candidate in candidates]
    for _ in range(rounds):
        for result in results:
            if not result.error:
                _time_round(result, device)
    return results


def _run_first(candidate: Candidate, device: torch.device) -> TimingResult:
    """Run a candidate without timing to record its statistics and peak memory."""
    result = TimingResult(candidate)

    def run() -> None:
        result.stats = candidate.run()

    release_memory()
    try:
        with candidate.allocator():
            result.peak_memory = measure_peak_memory(run, device)
    except Exception as error:  # a reference implementation may raise any exception
        result.error = first_line(error)
        result.failure = error if isinstance(error, XplainError) else device_error(error)
    return result


def _time_round(result: TimingResult, device: torch.device) -> None:
    candidate = result.candidate
    with candidate.allocator():
        candidate.warm_up()
        result.seconds.append(measure_seconds(candidate.run, device))


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of ``work`` in seconds. Synchronize the device before and after the call."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def measure_peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Run ``work``, and return the peak memory in bytes above the memory in use before.

    On CUDA, this is the memory allocated for tensors. On Linux, it is the resident memory of the process, sampled every SAMPLE_INTERVAL
    seconds. On other systems, it is None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not STATM.exists():
        work()
        return None
    with _MemorySampler() as sampler:
        work()
    return sampler.peak - sampler.start


class _MemorySampler:
    """Context manager that samples the resident memory of the process in a background thread. start, peak: memory in bytes."""

    def __init__(self) -> None:
        self.start = self.peak = _read_resident_memory()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, _read_resident_memory())

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL):
            self.peak = max(self.peak, _read_resident_memory())


def _read_resident_memory() -> int:
    """Return the resident memory of the process in bytes."""
    return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
