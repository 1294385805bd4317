"""``xplain evaluate``: numbers, resume, shards, several models and errors."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import xplain
from tests.conftest import ROOT, SAMPLES, TINY, interrupt

QUICK = (*TINY, "-M", "insertion:steps=8", "-M", "deletion:steps=8", "-o", "run")


def scores(folder: str = "run") -> dict[tuple[str, str, str], float | None]:
    """Return the values of all ranks by (image, method, metric)."""
    lines = [
        json.loads(line) for path in Path(folder, "items").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    return {(r["key"], r["method"], r["metric"]): r["value"] for r in lines if r["mark"] != "item"}


def test_evaluate_equals_library(xp, photos):
    ran = xp("evaluate", photos, *QUICK, "-a", "ig:steps=5", "--json")
    assert ran.code == 0
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    values_by_key = scores()
    for key in ("cat/a.jpg", "espresso/b.jpg", "rocket/c.jpg"):
        x = xplain.read_image(photos / key, preprocessing=clf.preprocessing)[None]
        att = xplain.attribute(clf, x, "ig", steps=5)
        for metric in ("insertion", "deletion"):
            expected = float(xplain.measure(clf, x, att.values, metric, steps=8).values)
            assert values_by_key[key, "integrated-gradients:steps=5", f"{metric}:steps=8"] == pytest.approx(
                expected, abs=1e-9
            )


def test_summary_has_intervals_and_differences(xp, photos):
    (summary,) = xp("evaluate", photos, *QUICK, "-a", "sm", "-a", "ig:steps=5", "--json").records
    values_by_key = scores()
    rows = {(row["method"], row["metric"]): row for row in summary["rows"]}
    assert set(rows) == {
        (m, e)
        for m in ("saliency", "integrated-gradients:steps=5", "random")
        for e in ("insertion:steps=8", "deletion:steps=8")
    }
    values = [
        values_by_key[key, "random", "deletion:steps=8"] for key in ("cat/a.jpg", "espresso/b.jpg", "rocket/c.jpg")
    ]
    row = rows["random", "deletion:steps=8"]
    assert (row["n"], row["undefined"]) == (3, {})
    assert row["mean"] == pytest.approx(np.mean(values))
    assert min(values) <= row["low"] <= row["mean"] <= row["high"] <= max(values)
    assert row["difference"]["mean"] == pytest.approx(row["mean"] - rows["saliency", "deletion:steps=8"]["mean"])
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    x = torch.stack([xplain.read_image(p, preprocessing=clf.preprocessing) for p in sorted(photos.glob("*/*.jpg"))])
    curves = xplain.measure(clf, x, xplain.attribute(clf, x, "saliency").values, "deletion", steps=8).curve
    np.testing.assert_allclose(rows["saliency", "deletion:steps=8"]["curve"], curves.mean(dim=0), atol=2e-6)
    assert rows["saliency", "deletion:steps=8"]["difference"] is None
    assert json.loads(Path("run/summary.json").read_text()) == summary
    table = list(csv.DictReader(Path("run/summary.csv").read_text().splitlines()))
    assert float(table[0]["mean"]) == pytest.approx(summary["rows"][0]["mean"])
    assert list(table[0])[-3:] == ["minus_random", "minus_random_low", "minus_random_high"]
    assert float(table[0]["minus_random_low"]) == pytest.approx(summary["rows"][0]["control"]["low"])
    assert "| deletion:steps=8 ↓ | random |" in Path("run/summary.md").read_text()


def test_top1_counts_labelled_images(xp, photos):
    (summary,) = xp("evaluate", photos, *QUICK, "-a", "sm", "--json").records
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    right = [
        clf.labels[int(clf(xplain.read_image(path, preprocessing=clf.preprocessing)[None]).argmax())]
        == path.parent.name
        for path in photos.glob("*/*.jpg")
    ]
    assert summary["top1"] == pytest.approx(sum(right) / 3)


def test_target_label_uses_true_class(xp, photos):
    xp("evaluate", photos, *QUICK, "-a", "sm", "--target", "label")
    lines = [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]
    assert {r["key"]: r["target"] for r in lines if "target" in r} == {
        "cat/a.jpg": 0,
        "espresso/b.jpg": 1,
        "rocket/c.jpg": 2,
    }


def test_evaluate_resumes_after_torn_line(xp, photos):
    xp("evaluate", photos, *QUICK, "-a", "sm")
    whole = scores()
    lines = Path("run/items/0.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (1, 4, len(lines) - 1):
        Path("run/items/0.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
        assert xp("evaluate", photos, *QUICK, "-a", "sm").code == 0
        assert scores() == whole
        assert Path("run/items/0.jsonl").read_bytes().count(b"\n") == len(lines)


def test_evaluate_keeps_finished_results(xp, photos, monkeypatch):
    xp("evaluate", photos, *QUICK, "-a", "sm")
    monkeypatch.setattr(
        "xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    assert xp("evaluate", photos, *QUICK, "-a", "sm").code == 0


def test_evaluate_counts_results_that_are_kept(xp, photos, method_calls):
    command = ("evaluate", photos, *QUICK, "-a", "sm", "-b", "1")
    method_calls.before[3] = interrupt  # the second image
    ran = xp(*command)
    assert ran.code == 130
    assert "xplain: interrupted; 4 of 12 results are kept. To resume, run: xplain evaluate " in ran.err
    assert (
        "xplain: 4 of 12 results are kept from an earlier command; computing the others"
        in xp(*command).err.splitlines()
    )
    assert "results are kept" not in xp(*command).err


def test_methods_and_metrics_are_added(xp, photos):
    xp("evaluate", photos, *QUICK, "-a", "sm")
    before = scores()
    (summary,) = xp("evaluate", photos, *QUICK, "-M", "morf:steps=4", "-a", "gxi", "--json").records
    after = scores()
    assert {key: after[key] for key in before} == before
    assert {row["method"] for row in summary["rows"]} == {"saliency", "random", "input-x-gradient"}
    assert {row["metric"] for row in summary["rows"]} == {"insertion:steps=8", "deletion:steps=8", "morf:steps=4"}


@pytest.mark.parametrize(
    "change", [["--seed", "1"], ["--target", "label"], ["--precision", "bf16"], ["--image-size", "40"]]
)
def test_other_settings_are_named(xp, photos, change):
    xp("evaluate", photos, *QUICK, "-a", "sm")
    ran = xp("evaluate", photos, *QUICK, "-a", "sm", *change)
    assert ran.code == 2
    key = "preprocessing" if change[0] == "--image-size" else change[0][2:]
    assert f"'run' contains a run with a different {key}: " in ran.err


def test_limit_and_batch_size_may_change(xp, photos):
    assert xp("evaluate", photos, *QUICK, "-a", "sm", "--limit", "1").code == 0
    assert xp("evaluate", photos, *QUICK, "-a", "sm", "-b", "1").code == 0
    assert len(scores()) == 3 * 2 * 2


def test_shards_equal_whole_run(xp, photos):
    for part in ("0/2", "1/2"):
        assert xp("evaluate", photos, *QUICK, "-a", "neflag:samples=3", "--shard", part).code == 0
    assert sorted(path.name for path in Path("run/items").iterdir()) == ["0.jsonl", "1.jsonl"]
    sharded = scores()
    xp("evaluate", photos, *QUICK[:-1], "one", "-a", "neflag:samples=3")
    assert scores("one") == pytest.approx(sharded, abs=1e-12)


def test_torchrun_equals_one_process(xp, photos):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xplain"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [*command, "evaluate", str(photos), *QUICK, "-a", "sm", "-b", "1", "--json"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (summary,) = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert summary["items"]["evaluated"] == 3
    xp("evaluate", photos, *QUICK[:-1], "one", "-a", "sm", "-b", "1")
    summaries = [json.loads(Path(folder, "summary.json").read_text()) for folder in ("run", "one")]
    for summary in summaries:
        del summary["run"]["environment"]["versions"]  # of the imported libraries, which depend on other tests
    assert summaries[0] == summaries[1]


def test_undefined_values_are_counted(xp, photos):
    ran = xp(
        "evaluate",
        photos,
        *TINY,
        "-M",
        "completeness-gap",
        "-M",
        "error-rate",
        "-a",
        "sm",
        "-a",
        "ig:steps=4",
        "-o",
        "run",
        "--json",
    )
    assert ran.code == 5
    rows = {(row["method"], row["metric"]): row for row in ran.records[0]["rows"]}
    assert rows["saliency", "completeness-gap"]["undefined"] == {"the method does not satisfy completeness": 3}
    assert (rows["saliency", "error-rate"]["n"], rows["saliency", "error-rate"]["mean"]) == (0, None)
    assert rows["integrated-gradients:steps=4", "completeness-gap"]["n"] == 3


def test_evaluate_skips_bad_image(xp, photos):
    (photos / "cat" / "bad.jpg").write_text("no picture")
    ran = xp("evaluate", photos, *QUICK, "-a", "sm", "--json")
    assert ran.code == 5
    assert ran.records[0]["items"] == {"evaluated": 3, "failed": 1, "of": 4}
    assert xp("evaluate", photos, *QUICK, "-a", "sm", "--fail-fast").code == 3


def test_protocol_sets_metrics(xp, photos):
    (summary,) = xp("evaluate", photos, *TINY, "-a", "sm", "--protocol", "dga", "-o", "run", "--json").records
    assert list(summary["run"]["metrics"]) == ["morf", "lerf"]
    ran = xp("evaluate", photos, *TINY, "-a", "sm", "--protocol", "agi", "-M", "deletion:steps=4", "-o", "b", "--json")
    (metric,) = ran.records[0]["run"]["metrics"].values()
    assert metric["params"] == {"steps": 4, "baseline": "black", "unit": "union3", "area": "mean"}


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["-M", "delition"], 2, "unknown metric 'delition'; did you mean 'deletion' or 'single-deletion'?"),
        (["-a", "agii"], 2, "unknown method 'agii'; did you mean 'agi'?"),
        (["--protocol", "agy"], 2, "unknown protocol 'agy'; did you mean 'agi'?"),
        (["--shard", "2/2"], 2, "invalid shard '2/2'; use I/N with 0 <= I < N"),
        (["--target", "cat"], 2, "evaluate does not support target 'cat'; use auto, label or similar:IMAGE"),
        (["--limit", "0"], 2, "'--limit'"),
    ],
)
def test_evaluate_usage_error_is_one_line(xp, photos, args, code, text):
    ran = xp("evaluate", photos, *TINY, *args)
    assert (ran.code, ran.out) == (code, "")
    assert text in ran.err
    assert ran.err.count("\n") == 1


def test_missing_data_set_is_input_error(xp):
    ran = xp("evaluate", "nowhere", *TINY)
    assert (ran.code, ran.err) == (
        3,
        "xplain: error: dataset 'nowhere' not found; pass a directory, a text file of paths, tar shards or torchvision:NAME:ROOT\n",
    )


def test_single_image_is_no_data_set(xp):
    ran = xp("evaluate", SAMPLES / "cat.jpg", *TINY)
    assert (ran.code, ran.err) == (
        3,
        f"xplain: error: '{SAMPLES}/cat.jpg' is a single image, not a dataset; pass a folder of images, or explain the image: "
        f"xplain explain {SAMPLES}/cat.jpg\n",
    )


def test_flat_folder_needs_no_labels(xp, tmp_path):
    (tmp_path / "flat").mkdir()
    shutil.copy(SAMPLES / "cat.jpg", tmp_path / "flat" / "a.jpg")
    (summary,) = xp("evaluate", "flat", *QUICK, "-a", "sm", "--json").records
    assert summary["top1"] is None
    assert xp("evaluate", "flat", *QUICK[:-1], "b", "-a", "sm", "--target", "label").code == 2


TWO = ("-m", "python:tests.helpers.factories:tiny", "-m", "python:tests.helpers.factories:smooth", "--device", "cpu")
FOLDERS = ("python-tests.helpers.factories-tiny", "python-tests.helpers.factories-smooth")


def test_models_have_separate_runs(xp, photos):
    ran = xp("evaluate", photos, *TWO, "-M", "deletion:steps=4", "-a", "sm", "-o", "both", "--json")
    assert (ran.code, [s["run"]["fingerprint"]["model"]["name"] for s in ran.records]) == (0, list(TWO[1:4:2]))
    for name, folder in zip(TWO[1:4:2], FOLDERS, strict=True):
        xp("evaluate", photos, "-m", name, "--device", "cpu", "-M", "deletion:steps=4", "-a", "sm", "-o", "one")
        assert scores(f"both/{folder}") == scores("one")
        shutil.rmtree("one")
    ran = xp("evaluate", photos, *TWO, "-M", "deletion:steps=4", "-a", "sm", "-o", "both")
    assert [re.search(", model ([^;]+);", line)[1] for line in ran.lines if " images from " in line] == list(TWO[1:4:2])
    assert ran.lines[ran.lines.index("") + 1].startswith("| metric")


def test_models_have_default_directories(xp, photos):
    assert xp("evaluate", photos, *TWO, "-M", "deletion:steps=2", "-a", "sm").code == 0
    assert {path.name for path in Path("xplain-runs").iterdir()} == {f"photos.{folder}" for folder in FOLDERS}


def test_worst_model_sets_exit_code(xp, photos):
    ran = xp("evaluate", photos, *TINY, "-m", "python:tests.helpers.factories:broken", *QUICK[4:], "-a", "sm", "--json")
    undefined = [sum(sum(row["undefined"].values()) for row in summary["rows"]) for summary in ran.records]
    assert (ran.code, undefined[0], undefined[1] > 0) == (5, 0, True)


def test_models_are_checked_first(xp, photos):
    ran = xp(
        "evaluate",
        photos,
        *TINY,
        "-m",
        "python:tests.helpers.factories:tinny",
        "-M",
        "deletion:steps=2",
        "-a",
        "sm",
        "-o",
        "run",
    )
    assert (ran.code, ran.out, Path("run").exists()) == (2, "", False)
    assert "has no function 'tinny'; did you mean 'tiny'?" in ran.err
    ran = xp("evaluate", photos, *TINY, *TINY[:2], "-o", "run")
    assert (
        ran.err
        == "xplain: error: model 'python:tests.helpers.factories:tiny' is specified more than once; pass each model once\n"
    )


@pytest.mark.parametrize(
    ("twice", "named"),
    [
        (("-a", "ig:steps=3", "-a", "integrated-gradients:steps=3"), "method 'integrated-gradients:steps=3'"),
        (("-M", "deletion:steps=2", "-M", "deletion:steps=2"), "metric 'deletion:steps=2'"),
    ],
)
def test_repeated_choice_is_rejected(xp, photos, twice, named):
    ran = xp("evaluate", photos, *TINY, *twice, "-o", "run")
    assert (ran.code, ran.out, Path("run").exists()) == (2, "", False)
    assert ran.err == f"xplain: error: {named} is specified more than once; remove the duplicate\n"


@pytest.mark.parametrize(
    "models", ['"python:tests.helpers.factories:smooth"', '["python:tests.helpers.factories:smooth"]']
)
def test_flag_overrides_models_of_file(xp, photos, models):
    Path("c.toml").write_text(
        f'model = {models}\ndevice = "cpu"\n[evaluate]\nmetric = "deletion:steps=2"\nmethod = "sm"\n'
    )
    for flags, name in (([], "smooth"), (TINY, "tiny")):
        (summary,) = xp("evaluate", photos, "--config", "c.toml", *flags, "-o", name, "--json").records
        assert summary["run"]["fingerprint"]["model"]["name"] == f"python:tests.helpers.factories:{name}"
        assert list(summary["run"]["metrics"]) == ["deletion:steps=2"]


def test_default_run_directory_depends_on_settings(xp, photos):
    command = ("evaluate", photos, *TINY, "-a", "sm", "-M", "deletion:steps=2")
    recipes = [(), ("--target", "label"), ("--seed", "3"), ("--precision", "bf16")]
    for _ in range(2):
        assert {xp(*command, *options).code for options in recipes} == {0}
        name = "photos.python-tests.helpers.factories-tiny"
        endings = ("", ".label.fp32.seed=0", ".auto.fp32.seed=3", ".auto.bf16.seed=0")
        assert {path.name for path in Path("xplain-runs").iterdir()} == {name + ending for ending in endings}
