"""Paired differences to the random control in summaries."""

from __future__ import annotations

import re

import numpy as np
import pytest

from xplain.core.run_store import settings_digest
from xplain.reports.control import compare_with_control, find_control
from xplain.reports.evaluation_report import evaluation_table, format_control_difference
from xplain.reports.statistics import paired_difference
from xplain.reports.summary import summarize

METRIC = {"metric": "hit", "params": {}, "version": 1, "better": "higher", "unit": "hit", "axis": ""}
SETTINGS = {"params": {}, "score": "logit", "method_version": 1}
VALUES = {"a": [0.5, 0.75, 0.5, 1.0], "b": [0.25, 0.5, 0.5, None], "chance": [0.25, 0.0, 0.5, 0.25]}


def summarize_values(order) -> dict:
    """Return the rows of a summary by method, of VALUES in this order of the methods."""
    return {row["method"]: row for row in summarize_order(order)["rows"]}


def summarize_order(order) -> dict:
    """Return the summary of VALUES in this order of the methods."""
    methods = {label: {"method": "random" if label == "chance" else label, **SETTINGS} for label in order}
    description = {
        "schema": 1,
        "fingerprint": {"model": {"name": "m"}, "target": "auto"},
        "dataset": {"location": "d", "items": 4},
        "methods": methods,
        "metrics": {"hit": METRIC},
    }
    records = []
    for label in order:
        for i, value in enumerate(VALUES[label]):
            record = {"key": str(i), "mark": settings_digest(methods[label], METRIC), "value": value, "curve": None}
            undefined = "no object" if value is None else None
            records.append(record | {"undefined": undefined, "cost": {"forwards": 1, "backwards": 0}})
    assert find_control(description) == ("chance" if "chance" in order else None)
    return summarize(description, records)


def test_the_table_has_a_column_of_differences_to_the_control():
    table = [line for line in evaluation_table(summarize_order(("a", "b", "chance"))).splitlines() if line[:1] == "|"]
    cells = {row[1]: row[-1] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)}
    assert cells["method"] == "minus random"
    assert re.fullmatch(r"\+0\.4375 \(0\.\d+ to 0\.\d+\)", cells["a"])  # no verdict on four images
    row = {"control": {"mean": 0.5, "low": 0.25, "high": 0.75}, "verdict": "better", "n": 10}
    assert format_control_difference(row) == "+0.5000 (0.2500 to 0.7500), better"
    assert format_control_difference(row | {"n": 9}) == "+0.5000 (0.2500 to 0.7500)"
    assert cells["chance"] == ""
    assert "minus random" not in evaluation_table(summarize_order(("a", "b")))


@pytest.mark.parametrize("order", [("a", "b", "chance"), ("chance", "a", "b")])
def test_differences_to_the_control_are_paired(order):
    rows = summarize_values(order)
    assert "control" not in rows["chance"]
    for label in ("a", "b"):
        values, control = (np.array(VALUES[name], dtype=float) for name in (label, "chance"))
        expected = paired_difference(values, control)
        found = rows[label]["control"]
        assert (found["mean"], found["low"], found["high"], found["n"]) == (
            expected.mean, expected.low, expected.high, 4 if label == "a" else 3,
        )  # fmt: skip
    assert rows["a"]["control"]["mean"] == 0.4375
    verdicts = [compare_with_control(rows[label], METRIC) for label in ("a", "b", "chance")]
    assert verdicts == [rows[label].get("verdict") for label in ("a", "b", "chance")] == ["better", "not better", None]


def test_runs_without_control_have_no_differences_to_it():
    assert all("control" not in row for row in summarize_values(("a", "b")).values())


def test_better_side_depends_on_the_metric():
    row = {"control": {"mean": -0.2, "low": -0.3, "high": -0.1}}
    verdicts = [compare_with_control(row, {"better": better}) for better in ("higher", "lower", "neither")]
    assert verdicts == ["worse", "better", None]
    row = {"control": {"mean": 0.2, "low": 0.1, "high": 0.3}}
    verdicts = [compare_with_control(row, {"better": better}) for better in ("higher", "lower", "neither")]
    assert verdicts == ["better", "worse", None]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_intervals_that_contain_zero_are_not_better(better):
    for low, high in ((0.0, 0.1), (-0.1, 0.0), (-0.1, 0.1), (0.0, 0.0)):
        control = {"mean": 0.0, "low": low, "high": high}
        assert compare_with_control({"control": control}, {"better": better}) == "not better"
    assert compare_with_control({"control": {"mean": 0.1, "low": None, "high": None}}, {"better": better}) is None
