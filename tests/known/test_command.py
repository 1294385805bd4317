"""``xplain evaluate known:NAME``: numbers, resume, shards, files, exit codes and errors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from xplain.core.config import Choice, EvaluateConfig
from xplain.core.errors import InputError, UsageError
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.core.registry import METHODS
from xplain.known import MECHANISMS
from xplain.known.registry import find_mechanisms
from xplain.pipelines.known_truth import DEFAULT_METRICS, IMAGES, evaluate_known, load_plan, summarize_plan
from xplain.reports.known_report import known_table

FAST = ("-a", "ig:steps=8", "-a", "sm", "-M", "deletion:steps=16", "--limit", "2", "--no-progress")


def read_scores(folder: str) -> dict[tuple[str, str], object]:
    lines = [
        json.loads(line) for path in Path(folder, "items").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    return {(r["key"], r.get("method") or r["metric"]): r.get("scores") or r.get("values") for r in lines}


def test_run_directory_and_resume(xp):
    ran = xp("evaluate", "known:or", *FAST, "-o", "run")
    assert (ran.code, ran.err) == (0, "xplain: the report is run/report.html, the run directory run\n")
    first = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    assert set(first) == {"run.json", "report.html", "summary.json", "summary.csv", "summary.md"}
    assert ran.out == first["summary.md"].decode()
    summary = json.loads(first["summary.json"])
    rows = {row["method"]: row for row in summary["methods"]}
    assert list(rows) == ["integrated-gradients:steps=8", "saliency", "random"]
    assert rows["integrated-gradients:steps=8"]["auroc"]["mean"] == 1.0
    assert (rows["saliency"]["auroc"]["mean"], rows["saliency"]["silent"]["mean"]) == (0.5, 1.0)
    assert rows["saliency"]["auroc"]["n"] == 2
    assert summary["metrics"][0]["maps"] == 70
    items = Path("run/items/0.jsonl")
    lines = items.read_text().splitlines(keepends=True)
    items.write_text("".join(lines[:3]) + lines[3][:20])  # interrupted in the fourth record
    assert xp("evaluate", "known:or", *FAST, "-o", "run").code == 0
    assert list(map(_without_seconds, items.read_text().splitlines())) == list(map(_without_seconds, lines))
    assert {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == first
    with Path("run/summary.csv").open() as stream:
        table = {(r["name"], r["measure"], r["mechanism"]): r["value"] for r in csv.DictReader(stream)}
    assert float(table["integrated-gradients:steps=8", "auroc", "or"]) == 1.0
    assert float(table["deletion:steps=16", "grade", "all"]) == summary["metrics"][0]["grade"]["mean"]
    page = first["report.html"].decode()
    assert page.count("<h2>") == 3
    assert 'class="shaded" style="--share: 100%">1.00</td>' in page
    assert "<script" not in page


def _without_seconds(line: str) -> str:
    record = json.loads(line)
    record.get("cost", {}).pop("seconds", None)
    record.pop("more", None)
    return json.dumps(record)


def test_shards_and_extension_give_the_same_results(xp):
    assert xp("evaluate", "known:gate", *FAST, "-o", "whole").code == 0
    whole = read_scores("whole")
    eight = (*FAST[:-3], "--limit", "8", "--no-progress")
    for shard in ("0/2", "1/2"):
        assert xp("evaluate", "known:gate", *eight, "--shard", shard, "-o", "shards").code == 0
    assert len(list(Path("shards/items").iterdir())) == 2
    shards = read_scores("shards")
    assert {key: shards[key] for key in whole} == whole  # the first images do not depend on --limit
    assert len(shards) == 8 * 4
    assert xp("evaluate", "known:gate", *FAST, "-a", "sobel", "-o", "whole").code == 0
    extended = read_scores("whole")
    assert {key: extended[key] for key in whole} == whole
    assert len(extended) == len(whole) + 2
    ran = xp("evaluate", "known:gate", *FAST, "--seed", "1", "-o", "whole")
    assert ran.code == 2
    assert ran.err == (
        "xplain: error: 'whole' contains a run with a different seed: 0 instead of 1; use the same settings or another --output\n"
    )


def test_finished_run_plants_nothing(xp, monkeypatch):
    assert xp("evaluate", "known:null", *FAST, "-o", "run").code == 0
    monkeypatch.setattr("xplain.known.registry.Mechanism.plant", None)
    ran = xp("evaluate", "known:null", *FAST, "-o", "run", "--json")
    assert ran.code == 0
    assert ran.records[0]["metrics"] == []
    assert {row["method"]: row["quiet"]["mean"] for row in ran.records[0]["methods"]} == {
        "integrated-gradients:steps=8": 1.0,
        "saliency": 1.0,
        "random": 0.0,
    }


def test_default_folder_and_json(xp):
    ran = xp("evaluate", "known:and", *FAST, "--json", "--seed", "3")
    (summary,) = ran.records
    assert summary["mechanisms"] == {"and": "set"}
    assert Path("xplain-runs/known-and.seed=3/report.html").exists()
    shutil.copytree("xplain-runs/known-and.seed=3", "copy")
    ran = xp("compare", "xplain-runs/known-and.seed=3", "copy")
    assert ran.code == 3
    assert ran.err.endswith(" is on known truth and has no images to compare; read its report.html\n")
    shutil.rmtree("xplain-runs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("known:nope",),
            "unknown mechanism 'nope' in 'known:nope'; did you mean 'cancel'? xplain list known names all",
        ),
        (("known:gat",), "unknown mechanism 'gat' in 'known:gat'; did you mean 'gate'?"),
        (
            ("known:or", "-m", "resnet50"),
            "--model cannot be used with known:or, which plants its own networks and images; remove --model",
        ),
        (
            ("known:all", "--target", "label"),
            "--target cannot be used with known:all, which plants its own networks and images; remove --target",
        ),
        (
            ("known:or", "--image-size", "64"),
            "--image-size cannot be used with known:or, which plants its own networks and images; remove --image-size",
        ),
        (
            ("known:or", "-M", "label-randomisation"),
            "label-randomisation requires the method of a map and cannot be graded on known truth; choose a metric that evaluates "
            "maps, such as deletion",
        ),
        (("known:or", "-a", "agii"), "unknown method 'agii'; did you mean 'agi'?"),
    ],
)
def test_usage_errors(xp, arguments, message):
    ran = xp("evaluate", *arguments)
    assert (ran.code, ran.out, ran.err) == (2, "", f"xplain: error: {message}\n")
    assert not Path("xplain-runs").exists()


def test_methods_that_do_not_fit(xp):
    ran = xp("evaluate", "known:or", "-a", "legrad", "-M", "sds", "--limit", "1", "--no-progress", "-o", "run")
    assert ran.code == 3
    assert ran.err.startswith(
        "xplain: error: legrad does not fit known:or: legrad requires attention over a single grid of tokens"
    )
    assert "\nlegrad does not fit any mechanism: legrad requires attention" in ran.out
    ran = xp(
        "evaluate", "known:or", "-a", "legrad", "-a", "sm", "-M", "sds", "--limit", "1", "--no-progress", "-o", "run"
    )
    assert ran.code == 5
    assert ran.out.count("does not fit") == 1


def test_networks_that_cannot_be_trained(xp, monkeypatch):
    def fail(name, seed):
        raise InputError(f"the network of {name} with seed {seed} is inaccurate", "use another --seed")

    monkeypatch.setattr("xplain.known.trained_mechanisms.train_network", fail)
    ran = xp("evaluate", "known:scene", "-a", "sm", "--no-progress", "-o", "run")
    assert ran.code == 3
    error = "xplain: error: the network of scene with seed 0 is inaccurate; use another --seed"
    assert ran.err.splitlines()[:2] == [error, error]  # of both groups of images


def test_list_and_help_name_the_mechanisms(xp):
    ran = xp("list", "known")
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert [row[0] for row in rows] == [f"known:{name}" for name in MECHANISMS]
    assert all(len(row) == 3 and 20 < len(row[2]) < 110 for row in rows)
    assert "known:NAME" in xp("evaluate", "--help").out
    assert [mechanism.name for mechanism in find_mechanisms("known:all")] == list(MECHANISMS)


def test_smoke_run_of_written_mechanisms(tmp_path):
    """All mechanisms without training, with fast methods: what is known of them in closed form."""
    choices = ("sm", "ig:steps=20", "occlusion:window=4,stride=4", "random")
    config = EvaluateConfig(
        ModelOptions(device="cpu"),
        ComputeOptions(),
        dataset="known:all",
        methods=tuple(map(Choice.parse, choices)),
        metrics=(Choice.parse("deletion:steps=16"),),
        output=tmp_path,
        limit=1,
    )
    plan = load_plan(config)
    plan.mechanisms[:] = [mechanism for mechanism in plan.mechanisms if not mechanism.trained]
    assert list(evaluate_known(plan)) == []
    summary = summarize_plan(plan)
    rows = {row["method"]: row["profile"] for row in summary["methods"]}
    occlusion, ig, sm = rows["occlusion:window=4,stride=4"], rows["integrated-gradients:steps=20"], rows["saliency"]
    for name in (
        "linear-sparse",
        "linear-signed",
        "linear-graded",
        "rewritten",
        "gate",
        "and",
        "saturated",
        "max",
        "min",
        "inhibit",
    ):
        assert occlusion[name] == pytest.approx(1, abs=1e-9), name
    for name in (
        "linear-sparse",
        "rewritten",
        "gate",
        "and",
        "or",
        "saturated",
        "max",
        "product",
        "two-of-three",
        "rivals",
        "shatter",
    ):
        assert ig[name] == pytest.approx(1, abs=1e-9), name
    assert (ig["linear-dense"], occlusion["linear-dense"]) == pytest.approx((1, 1), abs=1e-5)
    assert ig["position"] == pytest.approx(1, abs=1e-5)
    assert (ig["min"], ig["absent"], occlusion["absent"]) == pytest.approx((0.75, 0.75, 0.75), abs=1e-9)
    for name in ("or", "saturated", "two-of-three", "cancel"):
        assert sm[name] == 0.5
    assert sm["shatter"] < 0.99
    for name in ("null", "gate-closed"):
        assert (sm[name], ig[name], occlusion[name], rows["random"][name]) == (1, 1, 1, 0)
    metrics = {row["metric"]: row for row in summary["metrics"]}
    assert metrics["deletion:steps=16"]["grade"]["low"] > 0.6
    assert metrics["deletion:steps=16"]["by_mechanism"]["saturated"] > 0.75
    assert len(known_table(summary).splitlines()) > 30


@pytest.mark.parametrize(("options", "methods"), [((), ()), (("-a", "neflag"), ("neflag",))])
def test_no_method_means_all(xp, monkeypatch, options, methods):
    configs = []

    def stop(config):
        configs.append(config)
        raise UsageError("stopped")

    monkeypatch.setattr("xplain.pipelines.known_truth.load_plan", stop)
    assert xp("evaluate", "known:or", *options).code == 2
    assert configs[0].methods == tuple(map(Choice, methods))


def test_defaults_are_documented():
    """Without options: 8 images, all methods, and metrics that can be graded."""
    plan = load_plan(
        EvaluateConfig(ModelOptions(), ComputeOptions(), dataset="known:all", methods=(), metrics=(), output=Path())
    )
    assert plan.images == IMAGES == 8
    assert [run.label for run in plan.methods] == [spec.name for spec in METHODS]
    assert [metric.label for metric in plan.metrics] == list(DEFAULT_METRICS)
    assert plan.required == frozenset()
