"""Seconds and memory: waited for on devices that run on, above what was taken before."""

from __future__ import annotations

import pytest
import torch

from xplain.pipelines import meter
from xplain.pipelines import throughput as ceiling
from xplain.pipelines.meter import Spread, peak_memory, synchronise, time_of
from xplain.pipelines.throughput import best_size, ideal_seconds


def test_a_spread_is_median_lowest_and_highest():
    assert Spread.of([4.0, 1.0, 3.0]) == Spread(3.0, 1.0, 4.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_the_device_is_waited_for_before_and_after(monkeypatch):
    events: list[str] = []
    clock = iter((10.0, 12.5))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(f"wait for {device}"))
    monkeypatch.setattr(meter.time, "perf_counter", lambda: events.append("look at the clock") or next(clock))
    assert time_of(lambda: events.append("work"), torch.device("cuda:1")) == 2.5
    assert events == ["wait for cuda:1", "look at the clock", "work", "wait for cuda:1", "look at the clock"]


def test_a_cpu_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: 1 / 0)
    synchronise(torch.device("cpu"))


@pytest.mark.skipif(not meter._STATM.exists(), reason="no /proc")
def test_peak_memory_is_what_work_takes_and_gives_back():
    size = 150 << 20

    def work() -> None:
        tensor = torch.ones(size // 4)
        meter.time.sleep(10 * meter.SAMPLE_EVERY)
        del tensor

    found = peak_memory(work, torch.device("cpu"))
    assert found is not None
    assert 0.9 * size < found < 1.2 * size


def test_without_a_way_to_look_work_is_done_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "_STATM", tmp_path / "none")
    done: list[int] = []
    assert peak_memory(lambda: done.append(1), torch.device("cpu")) is None
    assert done == [1]


def test_memory_on_cuda_is_what_tensors_took_above_what_was_there(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 250)
    assert peak_memory(lambda: calls.append("work"), torch.device("cuda")) == 150
    assert calls == ["reset", "work"]


# ------------------------------------------------------------------------------------------------ ceiling


@pytest.mark.parametrize(
    ("forwards", "backwards", "seconds"),
    [
        (50, 50, 5.0),  # gradient rows: 50 / 10
        (225, 0, 7.5),  # forwards alone: 225 / 30
        (400, 800, 400 / 30 + 800 / 15),  # a backward row is 1/10 - 1/30 = 1/15 s
    ],
)
def test_ideal_seconds_of_rows(forwards, backwards, seconds):
    assert ideal_seconds(forwards, backwards, 30.0, 10.0) == pytest.approx(seconds, rel=1e-12)


def made_up_rates(monkeypatch, rates: dict[int, float | None]) -> list[int]:
    """Batches take the time that makes these rates; None: they do not fit. The list holds the sizes that were run."""
    tried: list[int] = []

    def seconds(work, device) -> float:
        work()
        rate = rates[tried[-1]]
        if rate is None:
            raise torch.OutOfMemoryError
        return tried[-1] / rate

    monkeypatch.setattr(ceiling, "time_of", seconds)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return tried


@pytest.mark.parametrize(
    ("rates", "best", "last"),
    [
        ({1: 5.0, 2: 7.0, 4: 9.0, 8: 11.0, 16: 12.0, 32: 12.5}, 32, 32),
        ({1: 5.0, 2: 7.0, 4: 6.0, 8: 11.0, 16: 9.0, 32: 8.0}, 8, 32),
        ({1: 5.0, 2: 7.0, 4: 6.0, 8: 6.5, 16: 90.0, 32: 90.0}, 2, 8),  # twice slower: enough
        ({1: 5.0, 2: 7.0, 4: 9.0, 8: None}, 4, 8),
    ],
)
def test_the_best_batch_size_has_the_most_rows_a_second(monkeypatch, rates, best, last):
    tried = made_up_rates(monkeypatch, rates)
    found = best_size(lambda batch: tried.append(len(batch)), torch.zeros(3, 3, 4, 4))
    assert (found.rows, found.rate) == (best, pytest.approx(rates[best]))
    assert max(tried) == last
    assert tried[:3] == [1, 1, 1]  # once to warm up, twice timed


def test_calls_fill_the_time_asked_for():
    best = ceiling.Best(4, {4: 40.0})
    assert [best.calls(seconds) for seconds in (0.01, 0.1, 0.25)] == [1, 1, 3]


def test_the_bare_model_prepared_has_the_logits_of_the_model():
    from tests.helpers import toys

    classifier = toys.classifier(toys.small_net())
    x = toys.images()
    for prepared in (True, False):
        found = ceiling.Bare(classifier, "fp32", prepared).logits(x)
        assert (found - classifier(x)).abs().max() < 1e-6
