"""``xplain compare RUN RUN``: paired methods, numbers computed by hand, and errors."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY
from xplain.core.run_store import settings_digest

KEYS = [f"c/{k}.jpg" for k in range(10)]
INSERTION = {"metric": "insertion", "params": {"steps": 8}, "version": 1, "better": "higher", "unit": "u"}
DELETION = {"metric": "deletion", "params": {"steps": 8}, "version": 1, "better": "lower", "unit": "u"}
METRICS = {"insertion": INSERTION, "deletion": DELETION}


def method(name, deviations=""):
    return {"method": name, "params": {}, "score": "logit", "method_version": 1, "deviations": deviations}


def write_run(folder, values, metrics=METRICS, model="net", keys=KEYS, target=1, digest="0", deviations="", late=None):
    """Write a run directory. values: scores by (method, metric), None where undefined."""
    methods = {name: method(name, deviations) for name, _ in values}
    description = {
        "schema": 1, "fingerprint": {"model": {"name": model}, "target": "auto", "seed": 0} | (late or {}),
        "dataset": {"location": "val", "items": len(keys), "labelled": 0}, "methods": methods, "metrics": metrics,
    }  # fmt: skip
    lines = [{"key": key, "mark": "item", "sha256": digest + key, "label": None, "predicted": 1} for key in keys]
    for (name, metric), scores in values.items():
        mark = settings_digest(methods[name], metrics[metric])
        facts = {"mark": mark, "method": name, "metric": metric, "target": target, "curve": None}
        lines += [
            {"key": key, "value": v, "undefined": None if v is not None else "why"} | facts
            for key, v in zip(keys, scores, strict=True)
        ]
    Path(folder, "items").mkdir(parents=True)
    Path(folder, "run.json").write_text(json.dumps(description))
    Path(folder, "items", "0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def scores(seed, shift=0.0):
    return (np.random.default_rng(seed).uniform(0.2, 0.4, len(KEYS)) + shift).tolist()


def both(name, seed, shift):
    """Return the scores of a method by both metrics, better by ``shift``."""
    return {(name, "insertion"): scores(seed, shift), (name, "deletion"): scores(seed + 50, -shift)}


def pairs(record):
    return [(row["metric"], row["first"], row["second"]) for row in record["pairs"]]


def test_differences_equal_manual_computation(xp):
    write_run("a", both("agi", 1, 0.3))
    write_run("b", both("ig", 2, 0.0))
    ran = xp("compare", "a", "b", "--json")
    assert ran.code == 0
    (record,) = ran.records
    assert pairs(record) == [("insertion", "agi", "ig"), ("deletion", "agi", "ig")]
    row = record["pairs"][1]
    d = np.array(scores(51, -0.3)) - np.array(scores(52))
    assert row["mean"] == pytest.approx(d.mean())
    assert row["low"] < d.mean() < row["high"] < 0
    assert (row["wins"], row["ties"], row["losses"], row["win_rate"], row["n"]) == (10, 0, 0, 1.0, 10)
    assert row["p"] == pytest.approx(2 / 2**10)
    assert row["p_holm"] == pytest.approx(4 / 2**10)
    assert record["arms"][0]["means"]["insertion"]["mean"] == pytest.approx(np.mean(scores(1, 0.3)))
    assert json.loads(Path("xplain-compare-runs/compare.json").read_text()) == record


def test_compare_runs_writes_all_files(xp):
    write_run("a", both("agi", 1, 0.3))
    write_run("b", both("<script>", 2, 0.0))
    ran = xp("compare", "a", "b", "-o", "out", "--save", "svg")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "compare.html", "compare.json", "compare.png", "compare.svg",
    ]  # fmt: skip
    table = [line for line in ran.lines if line.startswith("| deletion ↓ | agi | <script> |")]
    assert "| 100.0% | 0.002 | 0.0039 | 10 | 0 |" in table[0]
    page = Path("out/compare.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<circle") == 2
    before = Path("out/compare.png").stat()
    assert xp("compare", "a", "b", "-o", "out", "--save", "svg").out == ran.out
    after = Path("out/compare.png").stat()
    assert after.st_ino == before.st_ino  # kept and touched
    assert after.st_mtime_ns > before.st_mtime_ns
    write_run("c", both("ig", 3, 0.0))
    assert xp("compare", "a", "c", "-o", "out").code == 2
    assert xp("compare", "a", "c", "-o", "out", "--overwrite").code == 0


def test_compare_runs_counts_repeated_method_once(xp):
    write_run("a", both("agi", 1, 0.1) | both("random", 9, 0.0))
    write_run("b", both("ig", 2, 0.0) | both("random", 9, 0.0))
    (record,) = xp("compare", "a", "b", "--json").records
    assert record["repeated"] == ["random @ b"]
    assert pairs(record)[:3] == [
        ("insertion", "agi", "ig"),
        ("insertion", "agi", "random"),
        ("insertion", "ig", "random"),
    ]
    assert len(record["pairs"]) == 6


def test_compare_runs_ignores_reworded_deviations(xp):
    """The texts about a method may change with the version of xplain; the method is still the same."""
    write_run("a", both("agi", 1, 0.1) | both("random", 9, 0.0), deviations="before")
    write_run("b", both("ig", 2, 0.0) | both("random", 9, 0.0), deviations="after")
    (record,) = xp("compare", "a", "b", "--json").records
    assert record["repeated"] == ["random @ b"]
    assert [arm["name"] for arm in record["arms"]] == ["agi", "ig", "random"]


def test_single_run_pairs_its_methods(xp):
    write_run("a", both("agi", 1, 0.1) | both("ig", 2, 0.0))
    (record,) = xp("compare", "a", "--json").records
    assert pairs(record) == [("insertion", "agi", "ig"), ("deletion", "agi", "ig")]


def test_models_are_paired_by_method(xp):
    write_run("a", both("agi", 1, 0.1) | both("ig", 2, 0.0), model="m")
    write_run("b", both("agi", 3, 0.1) | both("ig", 4, 0.0), model="n")
    (record,) = xp("compare", "a", "b", "--json").records
    assert [row[1:] for row in pairs(record)[:4]] == [
        ("agi @ a", "ig @ a"), ("agi @ a", "agi @ b"), ("ig @ a", "ig @ b"), ("agi @ b", "ig @ b"),
    ]  # fmt: skip
    write_run("c", both("gxi", 3, 0.1), model="o")
    write_run("d", both("sm", 3, 0.1), model="m")
    (record,) = xp("compare", "c", "d", "-o", "one", "--json").records  # one method each
    assert pairs(record)[0] == ("insertion", "gxi", "sm")
    ran = xp("compare", "a", "c", "-o", "x")
    assert ran.code == 0  # the methods of a with one another


def test_undefined_pairs_are_counted(xp):
    values = both("agi", 1, 0.3)
    values["agi", "insertion"][4] = None
    write_run("a", values)
    write_run("b", both("ig", 2, 0.0))
    ran = xp("compare", "a", "b", "--json")
    assert ran.code == 5
    row = ran.records[0]["pairs"][0]
    assert (row["n"], row["undefined"], row["wins"]) == (9, 1, 9)
    assert row["p"] == pytest.approx(2 / 2**9)


def changed(**params):
    metrics = deepcopy(METRICS)
    metrics["deletion"]["params"] |= params
    return metrics


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"keys": [*KEYS[:9], "c/new.jpg"]},
            "the runs have different images: 'c/9.jpg' is in 'a' but not in 'b'; evaluate both runs on the same images",
        ),
        (
            {"digest": "1"},
            "the runs have different images: the file 'c/0.jpg' differs between 'a' and 'b'; evaluate both runs on the same files",
        ),
        (
            {"target": 2},
            "the runs explain different classes of 10 images: for 'c/0.jpg', class 1 in 'a' but class 2 in 'b'",
        ),
        ({"metrics": changed(steps=9)}, "deletion has different settings in the runs: steps is 8 in 'a' but 9 in 'b'"),
        (
            {"metrics": changed(unit="pixel")},
            "deletion has different settings in the runs: unit is None in 'a' but 'pixel' in 'b'",
        ),
    ],
)
def test_compare_runs_names_the_difference(xp, change, text):
    write_run("a", both("agi", 1, 0.3))
    write_run("b", both("ig", 2, 0.0), **change)
    ran = xp("compare", "a", "b")
    assert (ran.code, ran.out) == (3, "")
    assert text in ran.err
    assert ran.err.count("\n") == 1


def test_compare_runs_skips_uncommon_metrics(xp):
    write_run("a", both("agi", 1, 0.3))
    write_run("b", {("ig", "insertion"): scores(2)}, metrics={"insertion": INSERTION})
    ran = xp("compare", "a", "b")
    assert ran.code == 0
    assert "Metrics that are not in every run are skipped: deletion." in ran.out
    write_run("c", {("ig", "deletion"): scores(2)}, metrics={"deletion": DELETION})
    ran = xp("compare", "b", "c")
    assert (ran.code, "the runs have no metric in common" in ran.err) == (3, True)


def test_compare_runs_rejects_unfinished_run(xp):
    write_run("a", both("agi", 1, 0.3))
    write_run("b", both("ig", 2, 0.0))
    lines = Path("b/items/0.jsonl").read_text().splitlines(keepends=True)
    Path("b/items/0.jsonl").write_text("".join(lines[:-2]))
    ran = xp("compare", "a", "b")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert (
        "run 'b' is incomplete: missing deletion of ig for 'c/8.jpg' and 1 more; run the same evaluate command again"
        in ran.err
    )
    assert "a' is passed more than once; pass each run once" in xp("compare", "a", "a").err
    assert (
        "cannot compare the run directory 'a' with 'x.jpg', which is not a run directory; pass either images or run directories"
        in xp("compare", "a", "x.jpg").err
    )
    assert "--method does not apply to run directories; remove --method" in xp("compare", "a", "b", "-a", "sm").err


def test_compare_runs_needs_two_methods(xp):
    write_run("a", both("agi", 1, 0.3))
    ran = xp("compare", "a")
    assert (ran.code, ran.out) == (2, "")
    assert "run 'a' contains only one method; pass a second run or evaluate another method" in ran.err


def test_compare_runs_needs_results(xp):
    write_run("a", both("agi", 1, 0.3))
    write_run("b", both("agi", 1, 0.3))
    for path in Path("b", "items").iterdir():
        path.write_text("")  # as when the first image was not finished
    ran = xp("compare", "a", "b")
    assert (ran.code, ran.out) == (3, "")
    assert "run 'b' has no results; run the same evaluate command again" in ran.err


def test_undefined_difference_is_not_drawn(xp):
    write_run("a", both("agi", 1, 0.3) | {("agi", "insertion"): [None] * len(KEYS)})
    write_run("b", both("ig", 2, 0.0))
    ran = xp("compare", "a", "b", "-o", "out", "--json")
    assert ran.code == 5
    (insertion, deletion) = ran.records[0]["pairs"]
    assert [insertion[key] for key in ("mean", "low", "high", "p", "p_holm", "win_rate")] == [None] * 6
    assert (insertion["n"], insertion["undefined"]) == (0, len(KEYS))
    assert deletion["p_holm"] == deletion["p"]  # alone in the family
    assert Path("out/compare.html").read_text().count("<svg") == 1


def test_compare_runs_reads_evaluate_output(xp, photos):
    common = (*TINY, "-M", "deletion:steps=4", "-M", "insertion:steps=4")
    for folder, name in (("a", "sm"), ("b", "gxi")):
        assert xp("evaluate", photos, *common, "-a", name, "-o", folder).code == 0
    (record,) = xp("compare", "a", "b", "--json").records
    assert record["repeated"] == ["random @ b"]
    assert record["images"] == 3
    first, second = (json.loads(Path(folder, "summary.json").read_text())["rows"] for folder in "ab")
    means = {(row["method"], row["metric"]): row["mean"] for row in (*first, *second)}
    for row in record["pairs"]:
        expected = means[row["first"], row["metric"]] - means[row["second"], row["metric"]]
        assert row["mean"] == pytest.approx(expected, abs=1e-12)


def test_entries_of_newer_versions_do_not_separate_runs(xp):
    """A run is continued by a version that also stores the class names: its comparison with another run stays the same."""
    write_run("a", both("agi", 1, 0.3))
    write_run("b", both("ig", 2, 0.0))
    before = xp("compare", "a", "b", "--json").records[0]
    description = json.loads(Path("a/run.json").read_text())
    description["fingerprint"] |= {"class_names": "1", "per_class": "random"}
    Path("a/run.json").write_text(json.dumps(description))
    ran = xp("compare", "a", "b", "--json")
    assert (ran.code, ran.records[0]) == (0, before)
    assert pairs(before) == [("insertion", "agi", "ig"), ("deletion", "agi", "ig")]


@pytest.mark.parametrize(
    ("files", "model", "names", "code"),
    [
        ({"boxes": "5"}, "net", "12", 3),
        ({}, "net", "12", 0),
        ({"boxes": "5"}, "other", "12", 0),
        ({"boxes": "5"}, "net", "11", 0),
    ],
)
def test_class_names_matter_for_files(xp, files, model, names, code):
    metrics = {"insertion": METRICS["insertion"] | ({"files": files} if files else {})}
    for folder, name, digest, network in (("a", "agi", names[0], "net"), ("b", "ig", names[1], model)):
        values = {(name, "insertion"): scores(3 if folder == "a" else 4)}
        write_run(folder, values, metrics=metrics, model=network, late={"class_names": digest})
    ran = xp("compare", "a", "b")
    assert ran.code == code
    if code:
        assert "'a' and 'b' have different class names, which insertion looks up in its file; evaluate both" in ran.err
