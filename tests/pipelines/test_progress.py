"""Tests of xplain.pipelines.progress."""

from __future__ import annotations

import pytest

from xplain.pipelines.progress import ProgressCounter, ignore_progress


@pytest.fixture
def reports() -> list[tuple[float, float]]:
    return []


@pytest.fixture
def counter(reports) -> ProgressCounter:
    """A counter out of 10 that appends to ``reports``."""
    return ProgressCounter(lambda done, total: reports.append((done, total)), 10)


def test_counter_reports_each_advance(counter, reports):
    counter.start_part(4)
    counter.advance(1)
    counter.advance(3)
    counter.finish_part()
    assert reports == [(0, 10), (1, 10), (4, 10), (4, 10)]


def test_counter_completes_part_that_needs_less(counter, reports):
    """As when all results of a part exist already."""
    counter.start_part(4)
    counter.finish_part()
    counter.start_part(6)
    counter.advance(2)
    counter.finish_part()
    assert reports == [(0, 10), (4, 10), (4, 10), (6, 10), (10, 10)]


def test_counter_corrects_part_that_needs_more(counter, reports):
    """As when rows are computed again in smaller calls, because the memory was full."""
    counter.start_part(4)
    counter.advance(7)
    counter.finish_part()
    assert reports[-1] == (4, 10)


def test_counter_accepts_fractions(counter, reports):
    counter.advance(0.25)
    counter.advance(0.5)
    assert reports == [(0.25, 10), (0.75, 10)]


def test_ignore_progress_does_nothing():
    assert ignore_progress(1, 2) is None
