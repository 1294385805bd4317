"""The study: its configuration covers the registry, and its report is right on a small run."""

from __future__ import annotations

import csv
import io
import lzma
import runpy
import tomllib

from tests.conftest import SAMPLES, TINY
from xplain.pipelines import catalog

STUDY = SAMPLES / "study"
CONFIGS = {
    name: tomllib.loads((STUDY / f"{name}.toml").read_text())["evaluate"] for name in ("study", "reruns", "networks")
}
FOR_TRANSFORMERS = {"attention-rollout", "attention-relevance", "legrad", "grad-eclip"}


def test_every_method_for_convolutional_networks_takes_part():
    names = {label.partition(":")[0] for label in CONFIGS["study"]["method"]}
    assert names == {row["name"] for row in catalog.list_methods()} - FOR_TRANSFORMERS - {"smooth"}
    assert set(CONFIGS["reruns"]["method"]) < set(CONFIGS["study"]["method"])
    assert set(CONFIGS["networks"]["method"]) < set(CONFIGS["study"]["method"])
    assert set(CONFIGS["networks"]["metric"]) < set(CONFIGS["study"]["metric"])
    assert len(CONFIGS["study"]["metric"]) + len(CONFIGS["reruns"]["metric"]) >= 12


def test_report_of_a_small_run(xp, tmp_path):
    report = runpy.run_path(str(STUDY / "report.py"))
    metrics = [report["PRIMARY"], report["FILLS"]["blur"], report["INSERTION"], report["DELETION"], "stability-noise"]
    options = [part for metric in metrics for part in ("-M", metric)]
    methods = ["-a", "random", "-a", "saliency", "-a", "ig:steps=8"]
    ran = xp("evaluate", str(SAMPLES), *methods, *options, *TINY, "-o", str(tmp_path / "runs" / "tiny"))
    assert ran.code == 0, ran.err
    report["main"](str(tmp_path / "runs"), str(tmp_path))
    table = (tmp_path / "tables" / "tiny.md").read_text()
    assert table.startswith("tiny, n = 4 photographs")
    rows = list(csv.DictReader(io.StringIO(lzma.decompress((tmp_path / "items.csv.xz").read_bytes()).decode())))
    assert len(rows) == 3 * 5 * 4
    values = [float(row["value"]) for row in rows if row["method"] == "saliency" and row["metric"] == report["PRIMARY"]]
    assert f"| `saliency` | {sum(values) / 4:.3f} (" in table
    random = [float(row["value"]) for row in rows if row["method"] == "random" and row["metric"] == report["PRIMARY"]]
    assert f"| {(sum(values) - sum(random)) / 4:+.3f} (" in table
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {
        "images.png", "ranks.png", "tiny.agreement.png", "tiny.fills.png", "tiny.forest.png", "tiny.stability.png"
    }  # fmt: skip
