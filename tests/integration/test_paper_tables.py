"""The papers' tables: every file runs on two images, and its published values match the paper and the run."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import xplain.pipelines.catalog  # noqa: F401  (registers methods and metrics)
from tests.conftest import ROOT, SAMPLES
from xplain.reports.published import add_published, read_published

TABLES = {path.stem: path for path in sorted(SAMPLES.joinpath("tables").glob("*.toml"))}
VALUE_COUNTS = {"agi-1": 24, "dga-1": 36, "dga-2": 54, "mfaba-1": 6, "mfaba-2": 54, "neflag-1": 48}
PAPERS = ROOT.parent / "shared" / "papers"
# the keys of a published value that identify a row of the paper's table
ROW_KEYS = {
    "agi-1": ("model",),
    "dga-1": ("metric", "model"),
    "dga-2": ("method",),
    "mfaba-1": ("model", "method"),
    "mfaba-2": ("model", "method"),
    "neflag-1": ("metric", "model"),
}
SMALL = ("-m", "efficientnet-lite0", "--image-size", "16", "--limit", "2", "--device", "cpu")


def test_all_tables_exist():
    assert set(TABLES) == set(VALUE_COUNTS) == set(ROW_KEYS)


@pytest.mark.parametrize("name", TABLES)
def test_table_runs_with_default_model(xp, name):
    ran = xp("evaluate", SAMPLES, "--config", TABLES[name], *SMALL, "-o", "run", "--json")
    (summary,) = ran.records
    table = tomllib.loads(TABLES[name].read_text())
    assert ran.code == (5 if any(row["undefined"] for row in summary["rows"] if row["method"] != "random") else 0)
    methods = len(table["evaluate"]["method"]) + 1  # the random control
    assert len(summary["run"]["methods"]) == methods
    assert len(summary["rows"]) == methods * len(summary["run"]["metrics"])
    for row in summary["rows"]:
        assert row["n"] + sum(row["undefined"].values()) == 2
        assert row["published"] is None  # another model
    assert summary["published"]["unknown"] == table["published"]["unknown"]
    score = table["evaluate"]["score"]
    assert {method["score"] for method in summary["run"]["methods"].values()} == {score}
    compared = 0
    for model in table["evaluate"]["model"]:
        summary["run"]["fingerprint"]["model"]["name"] = model
        rows = add_published(summary, read_published(TABLES[name]))["rows"]
        values = Counter(row["published"] for row in rows if row["published"] is not None)
        assert values == Counter(
            figure["value"] for figure in table["published"]["figures"] if figure["model"] == model
        )
        compared += values.total()
    others = [figure for figure in table["published"]["figures"] if figure["model"] not in table["evaluate"]["model"]]
    assert compared + len(others) == VALUE_COUNTS[name]
    assert all("CIFAR" in figure["model"] for figure in others)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.skipif(not PAPERS.is_dir(), reason="the papers are not available")
def test_values_match_the_paper(name):
    lines = PAPERS.joinpath(f"{name.partition('-')[0]}.txt").read_text().splitlines()
    printed = [[float(number) for number in re.findall(r"(?<![\w.])-?\d*\.\d+", line)] for line in lines]
    rows: dict[tuple[str, ...], list[float]] = {}
    for figure in tomllib.loads(TABLES[name].read_text())["published"]["figures"]:
        rows.setdefault(tuple(figure[part] for part in ROW_KEYS[name]), []).append(figure["value"])
    assert all(row in printed for row in rows.values())
    assert sum(map(len, rows.values())) == VALUE_COUNTS[name]


def test_values_read_by_hand():
    """Check one value of each table."""
    by_hand = {
        "agi-1": ("inception_v3", "agi:classes=20", "insertion", 0.561),
        "dga-1": ("resnet18", "dga:steps=30,quantile=0.9", "morf", 0.019),
        "dga-2": ("resnet18", "fullgrad", "sensitivity-n:fractions=10", -0.045),
        "mfaba-1": ("efficientnet_b0", "mfaba:rule=left", "error-rate", 0.02058),
        "mfaba-2": ("vgg16", "boundary-ig:variant=official", "deletion", 0.0390),
        "neflag-1": ("resnet152.IMAGENET1K_V1", "neflag:samples=1", "deletion", 0.055),
    }
    for name, (model, method, metric, value) in by_hand.items():
        figures = tomllib.loads(TABLES[name].read_text())["published"]["figures"]
        assert {"model": model, "method": method, "metric": metric, "value": value} in figures


def test_readme_names_every_table():
    readme = Path(ROOT, "README.md").read_text()
    assert all(f"`{name}.toml`" in readme for name in TABLES)
