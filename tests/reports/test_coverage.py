"""Notes on intervals from few values and on the protocol, in the tables and on the page."""

from __future__ import annotations

import numpy as np
import pytest

from xplain.core.run_store import settings_digest
from xplain.reports.coverage import MIN_VALUES, narrow_interval_notes, protocol_notes
from xplain.reports.evaluation_page import make_evaluation_page
from xplain.reports.evaluation_report import evaluation_table, terminal_table
from xplain.reports.statistics import estimate_mean
from xplain.reports.summary import summarize

METHOD = {"method": "sm", "params": {}, "score": "logit", "method_version": 1}
METRIC = {"metric": "hit", "params": {}, "version": 1, "better": "higher", "unit": "hit", "axis": ""}


def summarize_images(n: int) -> dict:
    """Return the summary of a metric with n different values."""
    description = {
        "schema": 1,
        "fingerprint": {"model": {"name": "m"}, "target": "auto"},
        "dataset": {"location": "d", "items": n},
        "methods": {"sm": METHOD},
        "metrics": {"hit": METRIC},
    }
    record = {"mark": settings_digest(METHOD, METRIC), "curve": None, "undefined": None}
    cost = {"forwards": 1, "backwards": 0}
    return summarize(description, [{**record, "key": str(i), "value": i / n, "cost": cost} for i in range(n)])


def make_summary(metrics: dict[str, dict], rows: list[tuple[str, int]]) -> dict:
    estimates = [{"metric": metric, "n": n, "low": None if n < 2 else 0.0} for metric, n in rows]
    return {"run": {"metrics": metrics}, "rows": estimates}


@pytest.mark.parametrize(("n", "is_noted"), [(1, False), (2, True), (4, True), (9, True), (10, False)])
def test_few_images_are_noted_in_all_reports(n, is_noted):
    summary = summarize_images(n)
    text = f"Intervals from fewer than 10 images (n = {n}) are too narrow: more than 5% of such 95% intervals miss the true mean."
    for report in (evaluation_table(summary), terminal_table(summary), make_evaluation_page(summary, [], "")):
        assert (text in report) == is_noted
        assert report.count("too narrow") == is_noted
    assert summary["warnings"] == []


@pytest.mark.parametrize(
    ("protocol", "metrics", "notes"),
    [
        (None, ["insertion", "deletion"], ["protocol: xplain"]),
        (None, ["deletion"], []),
        (None, ["insertion:steps=7", "deletion"], []),
        ("rise", ["deletion"], ["protocol: rise"]),
        ("rise", ["insertion", "deletion"], ["protocol: rise"]),
    ],
)
def test_protocol_is_named_if_it_chose_the_metrics(protocol, metrics, notes):
    assert protocol_notes({"protocol": protocol, "metrics": dict.fromkeys(metrics)}) == notes


def test_counts_of_images_and_trials_are_separate():
    metrics = {"hit": {}, "roar": {"scope": "trial"}}
    notes = narrow_interval_notes(make_summary(metrics, [("hit", 9), ("hit", 4), ("hit", 1), ("hit", 10), ("roar", 3)]))
    assert [note.partition(" are")[0] for note in notes] == [
        "Intervals from fewer than 10 images (n = 4 to 9)",
        "Intervals from fewer than 10 trials (n = 3)",
    ]
    assert [note.rpartition(" ")[2] for note in notes] == ["images", "trials"]


def test_intervals_from_few_images_are_too_narrow():
    rng = np.random.default_rng(0)
    estimates = [estimate_mean(rng.normal(size=4)) for _ in range(300)]
    share = np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])
    assert 0.7 < share < 0.88
    assert MIN_VALUES > 4
