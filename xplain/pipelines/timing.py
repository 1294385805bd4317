"""Measure seconds and peak memory of programs, interleaved so that all programs suffer alike when the machine slows down."""

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

STATM = Path("/proc/self/statm")  # memory of this process in pages; the second number is the resident set
SAMPLE_INTERVAL = 0.002  # seconds between two samples of the resident memory


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class RunStats:
    """What one run cost in model rows, and its largest number of rows per model call; None if the program does not report it."""

    cost: Cost = field(default_factory=Cost)
    rows_per_call: int | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A program to time on ``images`` images.

    allocator: the context manager that sets how freed memory is handled while the program runs.
    rows: the rows per model call that the program is run with, None for its default.
    warm_up: runs before each timed run, so that memory which the previous program released is allocated again.
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

    error: the first line of the exception of the first run, empty if it succeeded. failure: the same as an XplainError, None if the user
    cannot solve it.
    """

    candidate: Candidate
    seconds: list[float] = field(default_factory=list)
    stats: RunStats = field(default_factory=RunStats)
    peak_memory: int | None = None
    error: str = ""
    failure: XplainError | None = None


def time_interleaved(candidates: Sequence[Candidate], rounds: int, device: torch.device) -> list[TimingResult]:
    """Run each candidate once to measure its memory, then time all of them in turn, ``rounds`` times.

    A candidate whose first run fails is not timed; its result holds the error.
    """
    results = [_run_first(candidate, device) for candidate in candidates]
    for _ in range(rounds):
        for result in results:
            if not result.error:
                _time_round(result, device)
    return results


def _run_first(candidate: Candidate, device: torch.device) -> TimingResult:
    """Run a candidate untimed, for its statistics and its peak memory."""
    result = TimingResult(candidate)

    def run() -> None:
        result.stats = candidate.run()

    release_memory()
    try:
        with candidate.allocator():
            result.peak_memory = measure_peak_memory(run, device)
    except Exception as error:  # reference implementations raise exceptions of any type
        result.error = first_line(error)
        result.failure = error if isinstance(error, XplainError) else device_error(error)
    return result


def _time_round(result: TimingResult, device: torch.device) -> None:
    candidate = result.candidate
    with candidate.allocator():
        candidate.warm_up()
        result.seconds.append(measure_seconds(candidate.run, device))


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of ``work`` in seconds; waits for the device before and after."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until all queued work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure_peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Run ``work``, and return the peak memory in bytes above the memory in use before.

    On CUDA the memory of tensors, on Linux the resident memory of the process, sampled every SAMPLE_INTERVAL; elsewhere None.
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
    """Sample the resident memory of the process in a thread while the block runs. start, peak: bytes."""

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
