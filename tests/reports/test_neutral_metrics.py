"""Metrics of which neither direction is better have no arrow, no winner and no best image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.helpers.comparisons import make_cell, make_comparison, make_row, noise
from xplain.reports.run_comparison import FIRST_BETTER, NO_DIFFERENCE, verdict_color
from xplain.reports.tables import with_arrow

SIGNIFICANT = {"p_holm": 0.001, "mean": 0.5}


@pytest.mark.parametrize(("better", "text"), [("higher", "m ↑"), ("lower", "m ↓"), ("neither", "m")])
def test_arrow(better, text):
    assert with_arrow("m", {"better": better}) == text


def test_no_color_and_no_best_score():
    assert verdict_color(SIGNIFICANT, "higher") == FIRST_BETTER
    assert verdict_color(SIGNIFICANT, "neither") == NO_DIFFERENCE
    row = make_row([make_cell(noise(0), insertion=0.2), make_cell(noise(1), insertion=0.7)])
    comparison = make_comparison([row])
    assert comparison.best_score(row, "insertion") == 0.7
    metrics = {name: {**metric, "better": "neither"} for name, metric in comparison.metrics.items()}
    assert replace(comparison, metrics=metrics).best_score(row, "insertion") is None


def test_evaluate_and_compare_runs(xp, photos):
    for name, method in (("a", "saliency"), ("b", "gxi")):
        args = ("-M", "sparseness", "-M", "deletion:steps=4", "-a", method, "-o", name)
        ran = xp("evaluate", photos, *TINY, *args)
        assert ran.code == 0, ran.err
    assert [line.split(" | ")[0] for line in ran.lines if line.startswith("| ")][1::2] == [
        "| sparseness", "| deletion:steps=4 ↓"
    ]  # fmt: skip
    assert "Best explanations of input-x-gradient according to deletion:steps=4" in Path("b/report.html").read_text()
    (record,) = xp("compare", "a", "b", "--json").records
    rates = {row["metric"]: row["win_rate"] for row in record["pairs"] if "random" not in (row["first"], row["second"])}
    assert rates["sparseness"] is None
    assert rates["deletion:steps=4"] in (0, 1 / 3, 2 / 3, 1)
    for name in ("a", "b"):
        xp("evaluate", photos, *TINY, "-M", "complexity", "-a", "saliency", "-o", f"{name}-only")
    assert not Path("a-only/gallery").exists()
