"""The report of a run on known truth: short titles, no empty columns, and the meanings of the columns that are shown."""

from __future__ import annotations

import re

import pytest

from xplain.reports.known_methods import SUMMARIZED
from xplain.reports.known_report import DEFINITION, known_table, make_known_page
from xplain.reports.known_tables import make_tables

ESTIMATE = {"mean": 0.75, "low": 0.5, "high": 1.0, "n": 2}


def make_method(label: str, profile: dict[str, float], measures=("auroc", "silent")) -> dict:
    """Return a row of a method that has these measures."""
    means = {measure: ESTIMATE if measure in measures else None for measure in SUMMARIZED}
    worst = min(profile, key=lambda name: profile[name])
    return means | {
        "method": label,
        "slopes": False,
        "profile": profile,
        "worst": {"mechanism": worst, "auroc": profile[worst]},
        "refused": {},
    }


def make_summary(kinds: dict[str, str], measures=("auroc", "silent"), metrics=()) -> dict:
    """Return a summary with one method whose value is 0.5 on every mechanism. kinds: by mechanism."""
    return {
        "run": {"dataset": {"location": "known:all"}, "fingerprint": {"seed": 3}},
        "mechanisms": kinds,
        "images": 2,
        "methods": [make_method("<ig>", dict.fromkeys(kinds, 0.5), measures)],
        "metrics": list(metrics),
    }


def make_metric(by_kind: dict[str, float], undefined: int = 0) -> dict:
    """Return a row of a metric with these grades."""
    kinds = dict.fromkeys(("swap", "miss", "spill", "blur", "sign", "weights", "draws", "noise", "rounding"))
    return {
        "metric": "deletion",
        "grade": ESTIMATE,
        "p_holm": None,
        "resolution": None,
        "by_kind": kinds | by_kind,
        "undefined": undefined,
        "maps": 70,
        "verdict": "prefers better maps",
        "bias": {"smooth": {"prefers": "smooth to scattered", "mean": 0.0, "low": None, "high": None}},
        "controls": {"random": 1.0},
    }


def test_columns_without_values_are_left_out():
    summary = make_summary({"or": "set"}, metrics=[make_metric({"swap": 1.0})])
    methods, metrics, preferences = make_tables(summary)
    assert (methods.title, methods.header) == ("Methods", ["method", "values", "auroc ↑", "95% CI", "silent"])
    assert methods.rows == [["<ig>", "contributions", "0.750", "0.500 to 1.000", "0.75"]]
    assert list(methods.terms) == ["values", "auroc ↑", "silent"]
    assert metrics.header == ["metric", "grade ↑", "95% CI", "resolution", "swap", "verdict"]
    assert metrics.terms["swap"] == "grade on maps that exchange relevant pixels with others"
    assert metrics.description.endswith("The list below explains the columns, and the guide known-truth.md the faults")
    assert (preferences.header, preferences.rows) == (["metric", "best to random"], [["deletion", "1.00"]])
    summary = make_summary({"or": "set"}, ("auroc", "sign"), [make_metric({"swap": 1.0}, undefined=7)])
    methods, metrics, _ = make_tables(summary)
    assert methods.header == ["method", "values", "auroc ↑", "95% CI", "sign"]
    assert dict(zip(metrics.header, metrics.rows[0], strict=True))["undefined"] == "7 of 70"


def test_several_mechanisms_have_a_table_by_mechanism():
    tables = make_tables(make_summary({"or": "set", "null": "silence"}))
    assert [table.title for table in tables] == ["Methods by mechanism", "Methods"]
    assert tables[0].header == ["method", "or", "null"]
    assert (
        tables[0].description == "Values: auroc where the relevant pixels are known, quiet where the score is constant"
    )
    assert tables[1].header[-1] == "lowest auroc"
    assert tables[1].rows[0][-1] == "or 0.50"


def test_report_defines_planted_mechanisms():
    summary = make_summary({"or": "set"}, metrics=[make_metric({"swap": 1.0})])
    text, page = known_table(summary), make_known_page(summary)
    assert text.splitlines()[0] == "Known truth: known:or with 2 images; seed 3; intervals: 95% bootstrap over images."
    for content in (text, page):
        assert content.count(DEFINITION) == 1
        assert "The score of known:or: 1 - ReLU(1 - a1 - a2)" in content
    assert "- auroc ↑: probability" in text
    assert re.findall("<h2>(.*?)</h2>", page) == ["Methods", "Metrics", "Preferences of metrics"]
    assert "&lt;ig&gt;" in page
    assert "<ig>" not in page
    assert "known:or" not in known_table(make_summary({"or": "set", "null": "silence"}))


@pytest.mark.parametrize(("kinds", "is_dense"), [({"or": "set"}, False), ({f"m{k}": "set" for k in range(20)}, True)])
def test_many_mechanisms_have_narrow_columns(kinds, is_dense):
    assert ('<table class="dense">' in make_known_page(make_summary(kinds))) == is_dense


def test_columns_whose_high_values_are_not_good_have_no_color():
    page = make_known_page(make_summary({"or": "set"}))
    assert '<td data-label="auroc ↑" class="shaded" style="--share: 75%">0.750</td>' in page
    assert '<td data-label="silent">0.75</td>' in page
