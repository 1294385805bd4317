"""The commands on models with labels, one logit and values: records, texts, accuracy and reports."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import xplain
import xplain.oracle.runtime
from tests.conftest import SAMPLES, TINY
from xplain.models.outputs import OutputKind

IMAGES = ("cat", "espresso", "rocket")
NAMES = ("cat", "espresso", "rocket", "astronaut", "nothing")
SALIENCY = ("-a", "saliency")
DELETION = ("-M", "deletion:steps=2", *SALIENCY)


def model(name: str) -> tuple[str, ...]:
    return ("-m", f"python:tests.helpers.factories:{name}", "--device", "cpu")


@pytest.fixture
def kind(monkeypatch):
    """Return a function that sets the kind of output of every model that commands load."""
    load = xplain.load_classifier

    def set_kind(activation: str, **options) -> None:
        def load_with_kind(**arguments):
            classifier = load(**arguments)
            classifier.output = OutputKind(activation, **options)
            return classifier

        monkeypatch.setattr(xplain.oracle.runtime, "load_classifier", load_with_kind)

    return set_kind


def logits_of(name: str, image: str) -> list[float]:
    """Return the logits of a sample, computed from the module."""
    classifier = xplain.load_classifier(getattr(__import__("tests.helpers.factories", fromlist=["x"]), name)(), "cpu")
    pixels = xplain.read_image(SAMPLES / f"{image}.jpg", preprocessing=classifier.preprocessing)[None].double()
    return classifier.model(pixels)[0].tolist()


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_explain_records_labels(xp, kind):
    kind("sigmoid")
    ran = xp("explain", SAMPLES / "cat.jpg", *TINY, *SALIENCY, "--json")
    (record,) = ran.records
    logits = logits_of("tiny", "cat")
    order = sorted(range(5), key=lambda index: -logits[index])
    assert [entry["index"] for entry in record["prediction"]] == order
    probabilities = [entry["probability"] for entry in record["prediction"]]
    assert probabilities == pytest.approx([sigmoid(logits[index]) for index in order])
    assert record["target"] == record["prediction"][0]
    assert record["decided"] == [NAMES[index] for index in range(5) if logits[index] >= 0]
    assert 0 < len(record["decided"]) < 5
    assert f"{NAMES[order[0]]} {sigmoid(logits[order[0]]):.2f}" in ran.err


@pytest.mark.parametrize("threshold", [None, 0.01, 0.99])
def test_explain_records_decision_of_one_logit(xp, kind, threshold):
    kind("binary", threshold=threshold)
    (record,) = xp("explain", SAMPLES / "cat.jpg", *model("one_logit"), *SALIENCY, "--json").records
    z = logits_of("one_logit", "cat")[1]
    edge = 0 if threshold is None else math.log(threshold / (1 - threshold))
    top = int(z > edge)
    assert [entry["index"] for entry in record["prediction"]] == [top, 1 - top]
    assert record["prediction"][0]["probability"] == pytest.approx(sigmoid(z if top else -z))
    assert record["target"]["index"] == top
    assert "decided" not in record


def test_explain_records_a_value(xp, kind):
    kind("none")
    args = ("explain", SAMPLES / "cat.jpg", *model("one_value"), "--save", "figure", "--save", "overlay")
    ran = xp(*args, "-a", "neflag:samples=2", "--json")
    (record,) = ran.records
    (value,) = logits_of("one_value", "cat")
    expected = {"index": 0, "wnid": None, "name": None, "probability": None, "value": pytest.approx(value)}
    assert record["target"] == expected
    assert record["prediction"] == [expected]
    assert record["score"] == "logit"
    assert f"output 0 {value:.4g}" in ran.err
    assert ran.err.count("the model returns values without probabilities; explaining the value of the target") == 1
    refused = xp(*args, *SALIENCY, "--score", "prob")
    assert refused.code == 2
    assert (
        "xplain: error: score=prob is not defined, because the model returns values, not probabilities" in refused.err
    )


def test_records_of_a_softmax_have_no_new_keys(xp):
    (record,) = xp("explain", SAMPLES / "cat.jpg", *TINY, *SALIENCY, "--json").records
    assert set(record["prediction"][0]) == {"index", "wnid", "name", "probability"}
    assert "decided" not in record


def test_compare_with_values(xp, kind):
    kind("none")
    args = (
        "compare",
        SAMPLES / "cat.jpg",
        *model("one_value"),
        *SALIENCY,
        "-a",
        "ig:steps=2",
        "-M",
        "deletion:steps=2",
    )
    assert xp(*args, "-o", "out").code == 0
    record = json.loads(Path("out/compare.json").read_text())
    assert record["rows"][0]["target"]["probability"] is None
    assert record["metrics"]["deletion:steps=2"]["unit"] == "mean value"
    (value,) = logits_of("one_value", "cat")
    curve = record["rows"][0]["cells"][0]["scores"]["deletion:steps=2"]["curve"]
    assert curve[0] == pytest.approx(value, abs=1e-6)


@pytest.fixture
def photos():
    Path("photos").mkdir()
    for name in IMAGES:
        shutil.copy(SAMPLES / f"{name}.jpg", Path("photos"))
    Path("labels.csv").write_text("cat.jpg,cat;nothing\nespresso.jpg,espresso\nrocket.jpg,\n")
    return "photos"


def read_items(folder: str) -> dict[str, dict]:
    lines = [json.loads(line) for path in Path(folder).glob("items/*.jsonl") for line in path.read_text().splitlines()]
    return {record["key"]: record for record in lines if record["mark"] == "item"}


LABELS = [(0, 4), (1,), ()]


def expected_accuracy() -> dict[str, float]:
    logits = np.array([logits_of("tiny", name) for name in IMAGES])
    truth = np.zeros((3, 5), dtype=bool)
    for row, labels in enumerate(LABELS):
        truth[row, list(labels)] = True
    present = [0, 1, 4]
    return {
        "top1": np.mean([int(logits[row].argmax()) in LABELS[row] for row in (0, 1)]),
        "exact": float(np.mean([((logits[row] >= 0) == truth[row]).all() for row in range(3)])),
        "mean_average_precision": average_precision_score(truth[:, present], logits[:, present], average="macro"),
    }


def test_evaluate_label_sets(xp, kind, photos):
    kind("sigmoid")
    ran = xp("evaluate", photos, "--labels", "labels.csv", *TINY, *DELETION, "-o", "run", "--json")
    assert ran.code == 0
    (summary,) = ran.records
    for key, value in expected_accuracy().items():
        assert summary[key] == pytest.approx(value), key
    assert summary["labelled"] == 3
    assert summary["warnings"] == []
    item = read_items("run")["cat.jpg"]
    assert (item["label"], item["labels"]) == (0, [0, 4])
    assert item["logits"] == pytest.approx(logits_of("tiny", "cat"))
    text = f"mean average precision {summary['mean_average_precision']:.3f}; exact match of the labels"
    assert text in Path("run/summary.md").read_text()
    assert "top-1" not in Path("run/report.html").read_text()
    again = xp("evaluate", photos, "--labels", "labels.csv", *TINY, *DELETION, "-o", "run", "--json")
    assert again.records == ran.records
    Path("labels.csv").write_text("cat.jpg,cat\nespresso.jpg,espresso\nrocket.jpg,\n")
    changed = xp("evaluate", photos, "--labels", "labels.csv", *TINY, *DELETION, "-o", "run")
    assert changed.code == 2
    assert "its label of 'cat.jpg' is 0 (cat) and 4 (nothing), not 0 (cat)" in changed.err


def test_evaluate_one_item_per_label(xp, kind, photos):
    kind("sigmoid")
    args = ("evaluate", photos, "--labels", "labels.csv", *TINY, *DELETION, "--target", "label", "-o", "run", "--json")
    ran = xp(*args)
    assert ran.code == 0
    (summary,) = ran.records
    assert (summary["items"], summary["labelled"]) == ({"evaluated": 3, "failed": 0, "of": 3}, 2)
    assert "--target label leaves out 1 images without a label, such as 'rocket.jpg'" in ran.err
    items = read_items("run")
    assert {key: item["label"] for key, item in items.items()} == {"cat.jpg#0": 0, "cat.jpg#4": 4, "espresso.jpg": 1}
    lines = [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]
    targets = {record["key"]: record["target"] for record in lines if record.get("method") == "saliency"}
    assert targets == {"cat.jpg#0": 0, "cat.jpg#4": 4, "espresso.jpg": 1}


def test_evaluate_one_logit_by_folders(xp, kind, photos):
    kind("binary")
    for name, folder in (("cat", "cat"), ("espresso", "no cat"), ("rocket", "no cat")):
        Path(photos, folder).mkdir(exist_ok=True)
        Path(photos, f"{name}.jpg").rename(Path(photos, folder, f"{name}.jpg"))
    (summary,) = xp("evaluate", photos, *model("one_logit"), *DELETION, "-o", "run", "--json").records
    z = [logits_of("one_logit", name)[1] for name in IMAGES]
    assert summary["top1"] == pytest.approx(np.mean([z[0] > 0, z[1] <= 0, z[2] <= 0]))
    assert "exact" not in summary
    item = read_items("run")["cat/cat.jpg"]
    assert item["predicted"] == int(z[0] > 0)
    assert item["probability"] == pytest.approx(sigmoid(abs(z[0])))


def test_evaluate_values(xp, kind, photos):
    kind("none")
    Path(photos, "17").mkdir()
    Path(photos, "rocket.jpg").rename(Path(photos, "17", "rocket.jpg"))
    args = ("evaluate", photos, *model("one_value"), *DELETION, "-M", "deletion:steps=2,relative=true")
    ran = xp(*args, "-o", "run", "--json")
    (summary,) = ran.records
    assert (summary["top1"], summary["labelled"]) == (None, 0)
    assert summary["run"]["metrics"]["deletion:steps=2"]["unit"] == "mean value"
    item = read_items("run")["17/rocket.jpg"]
    assert (item["predicted"], item["label"], item["probability"]) == (0, None, None)
    assert item["value"] == pytest.approx(logits_of("one_value", "rocket")[0])
    plain, relative = (
        next(row["curve"] for row in summary["rows"] if row["metric"] == metric and row["method"] == "saliency")
        for metric in ("deletion:steps=2", "deletion:steps=2,relative=true")
    )
    assert (relative[0], relative[-1]) == (1.0, 0.0)
    assert plain[0] == pytest.approx(np.mean([logits_of("one_value", name)[0] for name in IMAGES]), abs=1e-5)
    for option in (("--target", "label"), ("--labels", "labels.csv")):
        refused = xp(*args, "-o", "other", *option)
        assert refused.code == 2
        assert (
            f"xplain: error: {' '.join(option[:2]) if option[0] == '--target' else '--labels'} requires classes, but"
            in refused.err
        )
