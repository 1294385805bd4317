"""Time and memory of programs, and the order in which they are timed."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch

from xplain.core.types import Cost
from xplain.pipelines import timing
from xplain.pipelines.timing import (
    Candidate,
    RunStats,
    Spread,
    measure_peak_memory,
    measure_seconds,
    synchronize,
    time_interleaved,
)

CPU = torch.device("cpu")


def make_candidate(name: str, log: list[str]) -> Candidate:
    """Return a program that logs its runs; one named ``broken`` fails."""

    def run() -> RunStats:
        log.append(name)
        if name == "broken":
            raise ValueError("no such layer\nmore")
        return RunStats(Cost(2, 1), 2)

    return Candidate(name, 1, run, nullcontext)


def test_spread_of_values():
    assert Spread.of([4.0, 1.0, 3.0]) == Spread(3.0, 1.0, 4.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_time_interleaved_alternates_after_first_runs():
    log: list[str] = []
    results = time_interleaved([make_candidate(name, log) for name in "ab"], 3, CPU)
    assert log == ["a", "b", *"ababab"]
    assert [len(result.seconds) for result in results] == [3, 3]
    assert results[0].stats == RunStats(Cost(2, 1), 2)


def test_time_interleaved_excludes_warm_up(monkeypatch):
    log: list[str] = []

    @contextmanager
    def allocator():
        log.append("in")
        yield
        log.append("out")

    def clock(work, device):
        log.append("clock")
        work()
        return 1.0

    monkeypatch.setattr(timing, "measure_seconds", clock)
    candidate = replace(make_candidate("a", log), allocator=allocator, warm_up=lambda: log.append("warm"))
    (result,) = time_interleaved([candidate], 2, CPU)
    assert log == ["in", "a", "out", *["in", "warm", "clock", "a", "out"] * 2]
    assert result.seconds == [1.0, 1.0]


def test_time_interleaved_skips_failed_candidate():
    log: list[str] = []
    good, broken = time_interleaved([make_candidate("good", log), make_candidate("broken", log)], 2, CPU)
    assert (good.error, broken.error) == ("", "no such layer")
    assert (len(good.seconds), broken.seconds) == (2, [])


def test_measure_seconds_synchronizes_device(monkeypatch):
    events: list[str] = []
    clock = iter((10.0, 12.5))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(f"synchronize {device}"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: events.append("read clock") or next(clock))
    assert measure_seconds(lambda: events.append("work"), torch.device("cuda:1")) == 2.5
    assert events == ["synchronize cuda:1", "read clock", "work", "synchronize cuda:1", "read clock"]


def test_synchronize_ignores_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: 1 / 0)
    synchronize(CPU)


@pytest.mark.skipif(not timing.STATM.exists(), reason="no /proc")
def test_peak_memory_of_released_tensor():
    size = 150 << 20

    def work() -> None:
        tensor = torch.ones(size // 4)
        timing.time.sleep(10 * timing.SAMPLE_INTERVAL)
        del tensor

    peak = measure_peak_memory(work, CPU)
    assert peak is not None
    assert 0.9 * size < peak < 1.2 * size


def test_peak_memory_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "STATM", tmp_path / "none")
    runs: list[int] = []
    assert measure_peak_memory(lambda: runs.append(1), CPU) is None
    assert runs == [1]


def test_peak_memory_on_cuda(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 250)
    assert measure_peak_memory(lambda: calls.append("work"), torch.device("cuda")) == 150
    assert calls == ["reset", "work"]
