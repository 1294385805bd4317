"""The study: its configuration covers the registry, and its scripts are right on a small run."""

from __future__ import annotations

import csv
import io
import json
import lzma
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from tests.conftest import SAMPLES, TINY
from xplain.pipelines import catalog

STUDY = SAMPLES / "study"
CONFIGS = {
    name: tomllib.loads((STUDY / f"{name}.toml").read_text())["evaluate"] for name in ("study", "reruns", "networks")
}
PRIMARY, BLUR = "difference:steps=28,baseline=mean", "difference:steps=28,baseline=blur"
FOR_TRANSFORMERS = {"attention-rollout", "attention-relevance", "legrad", "grad-eclip"}


def test_every_method_for_convolutional_networks_takes_part():
    names = {label.partition(":")[0] for label in CONFIGS["study"]["method"]}
    assert names == {row["name"] for row in catalog.list_methods()} - FOR_TRANSFORMERS - {"smooth"}
    assert set(CONFIGS["reruns"]["method"]) < set(CONFIGS["study"]["method"])
    assert set(CONFIGS["networks"]["method"]) < set(CONFIGS["study"]["method"])
    assert set(CONFIGS["networks"]["metric"]) < set(CONFIGS["study"]["metric"])
    assert len(CONFIGS["study"]["metric"]) + len(CONFIGS["reruns"]["metric"]) >= 12


def run_script(name, *arguments):
    command = [sys.executable, str(STUDY / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small_run(xp, tmp_path):
    """The output of evaluate with two methods and five metrics of the study on a small network, and one other method."""
    runs = tmp_path / "runs"
    metrics = [PRIMARY, BLUR, "insertion:steps=28", "deletion:steps=28", "stability-draws", "stability-noise"]
    options = [part for metric in metrics for part in ("-M", metric)]
    methods = ["-a", "random", "-a", "saliency", "-a", "mfaba", "-a", "ig:steps=3"]
    ran = xp("evaluate", str(SAMPLES), *methods, *options, *TINY, "-o", str(runs / "tiny"))
    assert ran.code == 0, ran.err
    return runs


def read_items(folder):
    return list(csv.DictReader(io.StringIO(lzma.decompress((folder / "items.csv.xz").read_bytes()).decode())))


def mean_value(rows, method):
    values = [float(row["value"]) for row in rows if row["method"] == method and row["metric"] == PRIMARY]
    assert len(values) == 4
    return sum(values) / 4


def test_values_are_collected_once_and_reported(small_run, tmp_path):
    ran = run_script("collect.py", small_run, tmp_path)
    assert ran.stdout == "72 values added, 0 equal to the stored ones, 72 in all\n", ran.stderr
    stored = (tmp_path / "items.csv.xz").read_bytes()
    assert run_script("collect.py", small_run, tmp_path).stdout.startswith("0 values added, 72 equal")
    assert (tmp_path / "items.csv.xz").read_bytes() == stored
    rows = read_items(tmp_path)
    assert {row["method"] for row in rows} == {"random", "saliency", "mfaba"}

    ran = run_script("report.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    table = (tmp_path / "tables" / "tiny.md").read_text()
    assert table.startswith("tiny, n = 4 photographs, ")
    mean, random = mean_value(rows, "saliency"), mean_value(rows, "random")
    assert f"| `saliency` | {mean:.3f} (" in table
    assert f"| {mean - random:+.3f} (" in table
    names = ("", ".metrics", ".cost", ".photographs", ".fills", ".stability")
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {f"tiny{name}.md" for name in names}
    names = ("images", "ranks", "tiny.agreement", "tiny.fills", "tiny.forest", "tiny.stability")
    assert {path.name for path in (tmp_path / ".figures").iterdir()} == {f"{name}.png" for name in names}


def test_a_replay_with_another_value_is_refused(small_run, tmp_path):
    run_script("collect.py", small_run, tmp_path / "first")
    items = next((small_run / "tiny" / "items").glob("*.jsonl"))
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    changed = next(line for line in lines if line.get("method") == "saliency")
    changed["value"] = float(np.nextafter(changed["value"], 2))
    items.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stored = tmp_path / "first" / "items.csv.xz"
    before = stored.read_bytes()
    ran = run_script("collect.py", small_run, tmp_path / "first")
    assert ran.returncode == 1
    assert ran.stdout == f"differs: tiny {changed['key']} saliency {changed['metric']} {changed['value']!r}\n"
    assert stored.read_bytes() == before


def test_the_report_can_be_written_from_the_stored_values(tmp_path):
    for name in ("items.csv.xz", "images.csv", "costs.csv", "grades.csv"):
        shutil.copy(STUDY / name, tmp_path)
    ran = run_script("report.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    for table in (STUDY / "tables").iterdir():
        assert (tmp_path / "tables" / table.name).read_text() == table.read_text()
