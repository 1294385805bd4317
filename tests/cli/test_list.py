"""``xplain list``: rows of methods, metrics, models, protocols and classes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.conftest import SAMPLES
from xplain.core.errors import UsageError
from xplain.core.options import ModelOptions
from xplain.core.registry import METHODS, METRICS
from xplain.core.types import Attribution
from xplain.pipelines.catalog import list_fits
from xplain.reports.reference_page import make_page


def test_list_methods_json(xp):
    records = xp("list", "methods", "--json").records
    assert [r["name"] for r in records] == [spec.name for spec in METHODS]
    agi = next(r for r in records if r["name"] == "agi")
    assert agi["passes"] == "≤ 400 F, ≤ 800 B"
    assert {"variant=official|paper", "classes=20"} <= set(agi["usage"])
    assert agi["parameters"][2] == {
        "name": "step_size",
        "type": "float",
        "default": 0.05,
        "choices": [],
        "bounds": "> 0",
        "meaning": "ε in pixel units; for ascent=l2 the L2 length of a step of the whole image, such as 1.",
    }
    baseline = next(r for r in records if r["name"] == "integrated-gradients")["usage"][0]
    assert baseline == "baseline=black|white|mean|blur|uniform|FILE|DIR"
    assert "Pan, Li, Zhu (2021)" in agi["paper"]


def test_list_methods_for_model(xp):
    records = xp("list", "methods", "-m", "python:tests.helpers.factories:smooth", "--json").records
    rows = {record["name"]: record for record in records}
    assert list(rows) == [spec.name for spec in METHODS]
    refused = {name: row["why"] for name, row in rows.items() if row["fits"] == "no"}
    attention = {"attention-rollout", "attention-relevance", "legrad", "grad-eclip"}
    assert set(refused) == {"deep-taylor"} | attention
    assert refused["deep-taylor"].startswith("deep-taylor has no rule for silu in act1; use ")
    rows = xp("list", "methods", "-m", "python:tests.helpers.factories:tiny", "--json").records
    assert {r["fits"] for r in rows if r["name"] not in attention | {"deep-taylor"}} == {"yes"}


def test_list_prints_tabs_to_pipe(xp):
    row = next(line for line in xp("list", "methods").lines if line.startswith("saliency\t"))
    assert row.split("\t")[:4] == ["saliency", "sm", "absolute=false", "1 F, 1 B"]


def test_list_prints_table_on_terminal(xp, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")

    def read_table(*arguments: str) -> list[str]:
        return re.sub(r"\x1b\[[0-9;]*m", "", xp("list", *arguments).out).splitlines()

    header, *rows = read_table("methods")
    assert header.split() == ["name", "alias", "passes", "summary"]
    assert len([row for row in rows if not row.startswith(" ")]) == len(list(METHODS))
    assert max(len(row.rstrip()) for row in rows) <= 100
    row = next(row for row in rows if row.startswith("saliency "))
    assert row.split()[:6] == ["saliency", "sm", "1", "F,", "1", "B"]
    assert "Compute the gradient of the score" in row
    assert read_table("metrics")[0].split() == ["name", "better", "forwards", "summary"]
    table = [line.split() for line in read_table("classes", "--search", "tabby")]
    assert table == [["index", "wnid", "name"], ["281", "n02123045", "tabby"]]


def test_list_prints_page_of_one_entry(xp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    ran = xp("list", "methods", "ig")
    assert ran.code == 0
    assert ran.lines[0] == "integrated-gradients"
    assert "  steps: integer >= 1 or auto; default 50. Number of nodes α_k, or auto." in ran.lines
    assert "  Cost per image at the defaults: 50 forward and 50 backward rows" in ran.lines
    assert ran.out == make_page(METHODS.get("ig")).to_text(100)
    assert xp("list", "metrics", "deletion").lines[0] == "deletion"
    (record,) = xp("list", "methods", "ig", "--json").records
    assert (record["name"], record["definition"][:7]) == ("integrated-gradients", "φ = (x ")


def test_list_prints_pages_of_several_entries(xp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    pages = [make_page(METHODS.get(name)).to_text(100) for name in ("ig", "neflag")]
    assert xp("list", "methods", "ig", "neflag", "integrated-gradients").out == "\n".join(pages)
    records = xp("list", "methods", "neflag", "ig", "--json").records
    assert [record["name"] for record in records] == ["neflag", "integrated-gradients"]


def test_list_classes_without_names_says_how_to_name_them(xp):
    model = "python:tests.helpers.factories:untold"
    ran = xp("list", "classes", "-m", model, "--activation", "softmax")
    assert (ran.code, ran.err) == (
        3,
        f"xplain: error: the classes of {model} have no names; name them with --classes FILE\n",
    )


def test_list_refuses_names_of_nothing(xp):
    assert xp("list", "methods", "agii").err == "xplain: error: unknown method 'agii'; did you mean 'agi'?\n"
    ran = xp("list", "models", "resnet50")
    assert (ran.code, ran.err) == (
        2,
        "xplain: error: list models does not accept the name 'resnet50'; use --search resnet50\n",
    )
    ran = xp("list", "methods", "ig", "-m", "resnet50")
    assert ran.err == "xplain: error: --model cannot be combined with a name; use list methods --model resnet50\n"


def test_list_search_filters_rows(xp):
    assert [line.split("\t")[2] for line in xp("list", "classes", "--search", "tabby").lines] == ["tabby"]
    assert xp("list", "methods", "--search", "no such thing").out.strip() == ""


def test_list_classes_columns(xp):
    lines = xp("list", "classes").lines
    assert len(lines) == 1000
    assert lines[281] == "281\tn02123045\ttabby"
    assert xp("list", "classes", "-m", "python:tests.helpers.factories:tiny").lines[1] == "1\t\tespresso"


def test_list_metrics_json(xp):
    records = {r["name"]: r for r in xp("list", "metrics", "--json").records}
    assert set(records) == {spec.name for spec in METRICS}
    assert records["deletion"]["better"] == "lower"
    assert records["insertion"]["better"] == "higher"


def test_list_protocols_has_valid_metrics(xp):
    from xplain.core.config import Choice

    records = xp("list", "protocols", "--json").records
    assert [r["name"] for r in records] == ["xplain", "rise", "agi", "mfaba", "neflag", "dga"]
    texts = [text for record in records for text in record["metrics"]]
    for text in texts:
        choice = Choice.parse(text)
        METRICS.get(choice.name).resolve(dict(choice.params))


def test_list_models_names(xp):
    names = [line.split("\t")[0] for line in xp("list", "models").lines]
    assert names[0] == "efficientnet-lite0"
    assert {"resnet152", "vgg19", "inception_v3", "vit_b_16"} <= set(names)
    assert not any("fcn" in name or "raft" in name for name in names if ":" not in name)


@pytest.mark.parametrize("model", ["tiny", "smooth"])
def test_list_layers_names_those_that_layer_accepts(xp, model):
    options = ("-m", f"python:tests.helpers.factories:{model}", "--device", "cpu")
    records = xp("list", "layers", *options, "--json").records
    (auto,) = [record["name"] for record in records if record["auto"]]
    assert len(records) > 1
    for record in records:
        ran = xp(
            "explain", SAMPLES / "cat.jpg", *options, "-a", "grad-cam", "--layer", record["name"], "-o", record["name"]
        )
        assert ran.code == 0, ran.err
    xp("explain", SAMPLES / "cat.jpg", *options, "-a", "grad-cam", "--save", "raw", "-o", "auto")
    xp("explain", SAMPLES / "cat.jpg", *options, "-a", "grad-cam", "--layer", auto, "--save", "raw", "-o", "named")
    maps = [np.load(f"{folder}/cat.grad-cam.raw.npz")["attribution"] for folder in ("auto", "named")]
    np.testing.assert_array_equal(*maps)


def test_list_layers_of_transformer(xp):
    pytest.importorskip("timm")
    options = ("-m", "timm:test_vit", "--weights", "random", "--image-size", "64")
    rows = [line.split("\t") for line in xp("list", "layers", *options).lines]
    assert list({row[2] for row in rows}) == ["4x4"]
    assert [row[0] for row in rows if row[3]] == ["blocks.5.norm1"]
    assert {row[0]: row[4] for row in rows}["patch_embed.proj"] == "channels-first"
    assert {row[4] for row in rows} == {"channels-first", "channels-last", "4x4+1"}


def test_fits_count_methods(monkeypatch):
    outcomes = [("saliency", Attribution(torch.zeros(1, 3, 2, 2))), ("dga", UsageError("dga has no rule", "use agi"))]
    monkeypatch.setattr("xplain.pipelines.catalog.load_model", lambda _: None)
    monkeypatch.setattr("xplain.pipelines.catalog.try_methods", lambda _: iter(outcomes))
    calls = []
    rows = list_fits(ModelOptions(), lambda *call: calls.append(call))
    assert [(row["name"], row["fits"], row["why"]) for row in rows] == [
        ("saliency", "yes", ""),
        ("dga", "no", "dga has no rule; use agi"),
    ]
    total = len(list(METHODS))
    assert calls == [(1, total), (2, total)]


def test_table_headings_differ_from_keys(xp, monkeypatch):
    monkeypatch.setattr("xplain.pipelines.catalog.list_fits", lambda *_: [{"name": "agi", "fits": "no", "why": "x"}])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", xp("list", "methods", "-m", "net").out)
    assert text.split()[:3] == ["name", "supported", "reason"]
