"""Summaries of correctly and wrongly classified images, and of classes."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from xplain.core.run_store import settings_digest
from xplain.reports.evaluation_page import make_evaluation_page
from xplain.reports.evaluation_report import evaluation_table
from xplain.reports.groups import ItemGroups, classes_csv, group_table
from xplain.reports.statistics import estimate_mean
from xplain.reports.summary import summarize

METHOD = {"method": "sm", "params": {}, "score": "logit", "method_version": 1}
METRIC = {"metric": "hit", "params": {}, "version": 1, "better": "higher", "unit": "hit", "axis": ""}
ITEMS = [  # label, predicted, value
    (0, 0, 1.0), (0, 0, 0.5), (0, 1, 0.25), (1, 1, 0.75), (1, 0, None), (2, 2, None), (None, 0, 9.0), (3, 0, 0.0)
]  # fmt: skip


def describe(target: str = "auto") -> dict:
    return {
        "schema": 1,
        "fingerprint": {"model": {"name": "m"}, "target": target},
        "dataset": {"location": "d", "items": len(ITEMS)},
        "methods": {"sm": METHOD},
        "metrics": {"hit": METRIC},
        "classes": 4,
        "label_names": {"0": "cat", "1": "=dog|", "2": "sheep"},
    }


def list_records(items=ITEMS, chance=None) -> list[dict]:
    mark = settings_digest(METHOD, METRIC)
    records = []
    for i, (label, predicted, value, *more) in enumerate(items):
        extra = dict(zip(("labels", "decided", "image", "logits"), more, strict=False))
        records.append({"key": f"{i}", "mark": "item", "label": label, "predicted": predicted, **extra})
        undefined = "no object" if value is None else None
        record = {"key": f"{i}", "mark": mark, "value": value, "undefined": undefined, "curve": None}
        known = {} if chance is None or value is None else {"chance": chance[i]}
        records.append(record | {"cost": {"forwards": 1, "backwards": 1}} | known)
    return records


def test_groups_are_those_of_labels_and_predictions():
    summary = summarize(describe(), list_records()[::-1])
    (row,) = summary["rows"]
    right, wrong = row["by_correctness"]
    expected = estimate_mean(np.array([1.0, 0.5, 0.75]))
    assert (right["correct"], right["mean"], right["n"], right["undefined"]) == (True, 0.75, 3, 1)
    assert (right["low"], right["high"], right["std"]) == (expected.low, expected.high, expected.std)
    assert (wrong["correct"], wrong["mean"], wrong["n"], wrong["undefined"]) == (False, 0.125, 2, 1)
    assert row["by_class"] == [
        {
            "class": 0,
            "mean": pytest.approx(1.75 / 3),
            "std": pytest.approx(np.std([1, 0.5, 0.25], ddof=1)),
            "n": 3,
            "undefined": 0,
        },
        {"class": 1, "mean": 0.75, "std": None, "n": 1, "undefined": 1},
        {"class": 2, "mean": None, "std": None, "n": 0, "undefined": 1},
        {"class": 3, "mean": 0.0, "std": None, "n": 1, "undefined": 0},
    ]
    assert row["class_mean"]["mean"] == pytest.approx((1.75 / 3 + 0.75 + 0) / 3)
    assert row["class_mean"]["n"] == 3  # a class without values is left out
    assert row["mean"] == pytest.approx((1 + 0.5 + 0.25 + 0.75 + 9) / 6)  # images without labels count here


def test_runs_without_labels_have_no_groups():
    items = [(None, predicted, value) for _, predicted, value in ITEMS]
    summary = summarize(describe(), list_records(items))
    assert not {"by_correctness", "by_class", "class_mean"} & summary["rows"][0].keys()
    assert group_table(summary) == ""
    assert "classified images" not in make_evaluation_page(summary, [], "")
    assert classes_csv(summary) == ""


@pytest.mark.parametrize(
    ("target", "classes", "correct"),
    [("auto", [2, 0, 1], [True, False, False]), ("label", [0, 1, 1], [True, False, True])],
)
def test_label_sets_are_grouped_by_the_explained_class(target, classes, correct):
    """Right: the image has the explained label, and the model finds it."""
    items = [
        (0, 2, 1.0, [0, 2], [0, 2], "a", [1, 0, 2]),
        (1, 0, 2.0, [1], [0], "b", [1, 0, 2]),
        (1, 1, 3.0, [0, 1], [1], "c", [1, 0, 2]),
        (None, 1, 4.0, [], [1], "d", [1, 0, 2]),
    ]
    if target == "auto":  # the top class of c is not found
        items[2] = (1, 1, 3.0, [0, 1], [], "c", [1, 0, 2])
    (row,) = summarize(describe(target), list_records(items))["rows"]
    values = [1.0, 2.0, 3.0]
    expected = {entry: [v for v, c in zip(values, classes, strict=True) if c == entry] for entry in set(classes)}
    assert {entry["class"]: entry["mean"] for entry in row["by_class"]} == {k: np.mean(v) for k, v in expected.items()}
    for entry in row["by_correctness"]:
        members = [v for v, c in zip(values, correct, strict=True) if c == entry["correct"]]
        assert (entry["mean"], entry["n"]) == (np.mean(members), len(members))


def test_tables_of_groups():
    summary = summarize(describe(), list_records())
    text = group_table(summary)
    row = "| hit | sm | 0.7500 | 0.5000 to 1.0000 | 3 | 0.1250 | 0.0000 to 0.2500 | 2 | 0.4444 | 0.0000 to 0.7500 | 3 |"
    assert row in text
    assert text.startswith(
        "| metric | method | mean if right | 95% CI | n right | mean if wrong | 95% CI | n wrong | mean of classes |"
    )
    assert "mean if right" not in evaluation_table(summary)
    assert ">0.4444</td>" in make_evaluation_page(summary, [], "")
    rows = list(csv.DictReader(io.StringIO(classes_csv(summary))))
    assert [(row["class"], row["name"], row["mean"], row["n"], row["undefined"]) for row in rows] == [
        ("0", "cat", "0.5833333333333334", "3", "0"),
        ("1", "=dog|", "0.75", "1", "1"),
        ("2", "sheep", "", "0", "1"),
        ("3", "", "0.0", "1", "0"),
    ]


def test_chance_is_averaged_where_it_is_known():
    chance = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    description = describe()
    description["metrics"]["hit"] = METRIC | {"has_chance": True}
    summary = summarize(description, list_records(chance=chance))
    assert summary["rows"][0]["chance"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.4 + 0.7 + 0.8) / 6)
    lines = evaluation_table(summary).splitlines()
    assert lines[2].startswith("| metric | method | mean | chance | 95% CI |")
    assert lines[4].startswith("| hit ↑ | sm | 1.9167 | 0.4167 |")
    assert "<th>mean</th><th>chance</th>" in make_evaluation_page(summary, [], "")
    assert "chance" not in evaluation_table(summarize(describe(), list_records()))


def test_annotation_notes_are_shown():
    description = describe()
    description["metrics"]["hit"] = METRIC | {"annotation": "any object counts"}
    summary = summarize(description, list_records())
    assert "\nhit: any object counts.\n" in evaluation_table(summary)
    assert "<p>hit: any object counts.</p>" in make_evaluation_page(summary, [], "")


def test_record_whose_class_is_no_index_is_invalid():
    groups = ItemGroups(explains_labels=False)
    groups.add({"key": "a", "label": 1, "predicted": 1})
    for record in ({"key": "b", "label": "", "predicted": 1}, {"key": "b", "label": 1, "predicted": "1"}):
        with pytest.raises(TypeError, match="is not the index of a class"):
            groups.add(record)
    assert groups.classes == {"a": 1}
