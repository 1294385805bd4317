"""``xplain list``: what there is, for people and for machines."""

from __future__ import annotations

import re

from xplain.core.registry import METHODS, METRICS


def test_methods_come_from_the_registry(xp):
    records = xp("list", "methods", "--json").records
    assert [r["name"] for r in records] == [spec.name for spec in METHODS]
    agi = next(r for r in records if r["name"] == "agi")
    assert agi["passes"] == "≤ 400 F, ≤ 800 B"
    assert "variant=official|paper" in agi["parameters"]
    assert "classes=20" in agi["parameters"]
    assert "Pan, Li, Zhu (2021)" in agi["paper"]


def test_which_methods_fit_a_model_and_why_not(xp):
    rows = {
        r["name"]: r for r in xp("list", "methods", "-m", "python:tests.helpers.factories:smooth", "--json").records
    }
    assert list(rows) == [spec.name for spec in METHODS]
    refused = {name: row["why"] for name, row in rows.items() if row["fits"] == "no"}
    attention = {"attention-rollout", "attention-relevance"}
    assert set(refused) == {"guided-backprop", "deconvnet", "guided-grad-cam", "deep-taylor"} | attention
    assert refused["guided-backprop"].startswith("guided-backprop has no rule for silu in act1; deeplift")
    rows = xp("list", "methods", "-m", "python:tests.helpers.factories:tiny", "--json").records
    assert {r["fits"] for r in rows if r["name"] not in attention | {"deep-taylor"}} == {"yes"}


def test_rows_on_a_pipe_are_tab_separated(xp):
    row = next(line for line in xp("list", "methods").lines if line.startswith("saliency\t"))
    assert row.split("\t")[:4] == ["saliency", "sm", "absolute=false", "1 F, 1 B"]


def test_rows_on_a_terminal_are_a_table_of_the_same_columns(xp, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "500")

    def shown(*arguments: str) -> list[str]:
        return re.sub(r"\x1b\[[0-9;]*m", "", xp("list", *arguments).out).splitlines()

    header, *rows = shown("methods")
    assert header.split() == ["name", "alias", "parameters", "passes", "axioms", "paper"]
    assert len(rows) == len(list(METHODS))
    row = next(each for each in rows if each.startswith("integrated-gradients "))
    assert "steps=50" in row
    assert "completeness" in row
    found = [each.split() for each in shown("classes", "--search", "tabby")]
    assert found == [["index", "wnid", "name"], ["281", "n02123045", "tabby"]]


def test_search_narrows(xp):
    assert [line.split("\t")[2] for line in xp("list", "classes", "--search", "tabby").lines] == ["tabby"]
    assert xp("list", "methods", "--search", "no such thing").out.strip() == ""


def test_classes_have_index_wnid_and_name(xp):
    lines = xp("list", "classes").lines
    assert len(lines) == 1000
    assert lines[281] == "281\tn02123045\ttabby"
    assert xp("list", "classes", "-m", "python:tests.helpers.factories:tiny").lines[1] == "1\t\tespresso"


def test_metrics_say_which_way_is_better(xp):
    records = {r["name"]: r for r in xp("list", "metrics", "--json").records}
    assert set(records) == {spec.name for spec in METRICS}
    assert records["deletion"]["better"] == "lower"
    assert records["insertion"]["better"] == "higher"


def test_protocols_are_valid_metrics(xp):
    from xplain.core.config import Choice

    records = xp("list", "protocols", "--json").records
    assert [r["name"] for r in records] == ["xplain", "rise", "agi", "mfaba", "neflag", "dga"]
    for text in (text for r in records for text in r["metrics"]):
        choice = Choice.parse(text)
        METRICS.get(choice.name).resolve(dict(choice.params))


def test_models_hold_the_embedded_one_and_torchvisions(xp):
    names = [line.split("\t")[0] for line in xp("list", "models").lines]
    assert names[0] == "efficientnet-lite0"
    assert {"resnet152", "vgg19", "inception_v3", "vit_b_16"} <= set(names)
    assert not any("fcn" in name or "raft" in name for name in names if ":" not in name)
