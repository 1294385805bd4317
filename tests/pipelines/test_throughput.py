"""The plain model's throughput and the search for its fastest batch size."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import toys
from xplain.pipelines import throughput
from xplain.pipelines.throughput import BatchSizeSearch, PlainModel, find_best_batch_size, ideal_seconds


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


def prescribe_rates(monkeypatch, rates: dict[int, float | None]) -> list[int]:
    """Make batches as fast as ``rates`` says, None for out of memory. Returns the list to which the work appends batch sizes."""
    tried: list[int] = []

    def measure(work, device) -> float:
        work()
        rate = rates[tried[-1]]
        if rate is None:
            raise torch.OutOfMemoryError
        return tried[-1] / rate

    monkeypatch.setattr(throughput, "measure_seconds", measure)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return tried


@pytest.mark.parametrize(
    ("rates", "best", "last"),
    [
        ({1: 5.0, 2: 7.0, 4: 9.0, 8: 11.0, 16: 12.0, 32: 12.5}, 32, 32),
        ({1: 5.0, 2: 7.0, 4: 6.0, 8: 11.0, 16: 9.0, 32: 8.0}, 8, 32),
        ({1: 5.0, 2: 7.0, 4: 6.0, 8: 6.5, 16: 90.0, 32: 90.0}, 2, 8),  # stops after two slower sizes
        ({1: 5.0, 2: 7.0, 4: 9.0, 8: None}, 4, 8),
    ],
)
def test_best_batch_size_has_highest_rate(monkeypatch, rates, best, last):
    tried = prescribe_rates(monkeypatch, rates)
    search = find_best_batch_size(lambda batch: tried.append(len(batch)), torch.zeros(3, 3, 4, 4))
    assert (search.batch_size, search.rate) == (best, pytest.approx(rates[best]))
    assert max(tried) == last
    assert tried[:3] == [1, 1, 1]  # one untimed call, two timed


def test_calls_for_fill_the_time():
    search = BatchSizeSearch(4, {4: 40.0})
    assert [search.calls_for(seconds) for seconds in (0.01, 0.1, 0.25)] == [1, 1, 3]


@pytest.mark.parametrize("prepared", [True, False])
def test_plain_model_logits_equal_classifier(prepared):
    classifier = toys.classifier(toys.small_net())
    x = toys.images()
    logits = PlainModel(classifier, "fp32", prepared).logits(x)
    assert (logits - classifier(x)).abs().max() < 1e-6
