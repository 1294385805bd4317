"""The pictures of the best and worst explanations of a run: of every method, kept if they are current, with wrong predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY
from xplain.pipelines import examples
from xplain.pipelines.examples import Example, select_examples
from xplain.reports.render import encode_png, read_record

RUN = (*TINY, "-M", "deletion:steps=2", "-o", "run")


def gallery() -> dict[str, dict]:
    """Return the records of the pictures by file name."""
    return {path.name: read_record(path) or {} for path in Path("run/gallery").glob("*.png")}


def test_every_method_has_examples(xp, photos, method_calls):
    assert xp("evaluate", photos, *RUN, "-a", "sm", "-a", "gxi").code == 0
    shown = gallery()
    names = {"best-0.png", "worst-0.png", "best-0.input-x-gradient.png", "worst-0.input-x-gradient.png"}
    assert set(shown) == names  # the control has none
    values = {}
    for line in Path("run/items/0.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("method") in ("saliency", "input-x-gradient"):
            values.setdefault(record["method"], {})[record["key"]] = record["value"]
    for name, record in shown.items():
        scores = values[record["method"]]
        assert record["value"] == scores[record["key"]]
        assert record["value"] == (min if name.startswith("best") else max)(scores.values())  # lower deletion is better
    calls = len(method_calls.sizes)
    assert xp("evaluate", photos, *RUN, "-a", "sm", "-a", "gxi").code == 0
    assert len(method_calls.sizes) == calls
    first = Path("run/gallery/best-0.png").stat().st_mtime_ns
    assert xp("evaluate", photos, *RUN, "-a", "sm", "-a", "gxi", "-a", "center").code == 0
    assert set(gallery()) == names | {"best-0.center.png", "worst-0.center.png"}
    assert Path("run/gallery/best-0.png").stat().st_mtime_ns == first


def test_wrong_predictions_are_recorded(xp, photos):
    assert xp("evaluate", photos, *RUN, "-a", "sm").code == 0
    predicted = {}
    for line in Path("run/items/0.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["mark"] == "item":
            predicted[record["key"]] = record["label"] == record["predicted"]
    for record in gallery().values():
        assert record["correct"] is predicted[record["key"]]
        if not record["correct"]:
            assert record["labels"] == [record["key"].split("/")[0]]
    assert not all(record["correct"] for record in gallery().values())
    assert "wrong prediction; label: " in Path("run/report.html").read_text()
    shutil.copytree(photos, "flat")
    for path in list(Path("flat").rglob("*.jpg")):
        path.rename(Path("flat", path.name))
    for folder in [path for path in Path("flat").iterdir() if path.is_dir()]:
        folder.rmdir()
    assert xp("evaluate", "flat", *TINY, "-M", "deletion:steps=2", "-o", "plain", "-a", "sm").code == 0
    records = [read_record(path) or {} for path in Path("plain/gallery").glob("*.png")]
    assert {record["correct"] for record in records} == {None}


def test_pictures_of_earlier_versions_are_replaced(xp, photos):
    assert xp("evaluate", photos, *RUN, "-a", "sm").code == 0
    path = Path("run/gallery/best-0.png")
    record = read_record(path) or {}
    old = {key: record[key] for key in ("key", "metric", "value", "place", "name")}
    path.write_bytes(encode_png(np.zeros((4, 4, 3), dtype=np.uint8), old))
    path.with_name("best-1.png").write_bytes(path.read_bytes())
    assert xp("evaluate", photos, *RUN, "-a", "sm").code == 0
    assert sorted(gallery()) == ["best-0.png", "worst-0.png"]
    assert gallery()["best-0.png"] == record


def test_the_model_of_the_command_is_used(xp, photos, monkeypatch):
    monkeypatch.setattr(examples, "load_model", lambda *_: pytest.fail("the model is loaded again"))
    assert xp("evaluate", photos, *RUN, "-a", "saliency", "-a", "random").code == 0
    assert {record["method"] for record in gallery().values()} == {"saliency"}


def test_progress_counts_overlays(xp, photos, monkeypatch):
    calls = []
    write = examples.write_examples

    def write_counted(*arguments, on_progress, **options):
        write(*arguments, on_progress=lambda *numbers: calls.append(numbers), **options)

    monkeypatch.setattr(examples, "write_examples", write_counted)
    assert xp("evaluate", photos, *RUN, "-a", "saliency").code == 0
    count = len(gallery())
    assert count >= 2
    assert calls == [(done, count) for done in range(1, count + 1)]


def test_examples_do_not_overlap():
    examples = [Example(name, value, 0) for name, value in (("b", 0.5), ("a", 0.5), ("c", 0.1), ("d", 0.9), ("e", 0.2))]
    chosen = select_examples(examples, higher=True, count=4)
    assert [example.key for example in chosen["best"]] == ["d", "a"]
    assert [example.key for example in chosen["worst"]] == ["c", "e"]
