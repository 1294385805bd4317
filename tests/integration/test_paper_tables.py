"""The papers' tables: every file runs on a few images, and its published values match the paper and the run."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import xplain
import xplain.pipelines.catalog  # (registers methods and metrics)
from tests.conftest import ROOT, SAMPLES
from tests.helpers import factories
from tests.helpers.patches import make_set, write_set
from xplain.core.config import Choice
from xplain.core.options import ModelOptions
from xplain.pipelines.attribution import resolve_methods
from xplain.reports.published import add_published, read_published
from xplain.reports.published_speeds import PublishedSpeeds

TABLES = {path.stem: path for path in sorted(SAMPLES.joinpath("tables").glob("*.toml"))}
VALUE_COUNTS = {
    "agi-1": 24, "dga-1": 36, "dga-2": 54, "mfaba-1": 6, "mfaba-2": 54, "mfaba-3": 16, "neflag-1": 48, "neflag-figure-4": 24,
    "dga-figure-5": 0, "ma-gig-diffid": 0, "spectral-ig-diffid": 0,
}  # fmt: skip
ON_IMAGES = [name for name in TABLES if name not in ("mfaba-3", "dga-figure-5")]
PAPERS = ROOT.parent / "shared" / "papers"
# the keys of a published value that identify a row of the paper's table
ROW_KEYS = {
    "agi-1": ("model",),
    "dga-1": ("metric", "model"),
    "dga-2": ("method",),
    "mfaba-1": ("model", "method"),
    "mfaba-2": ("model", "method"),
    "mfaba-3": ("model",),
    "neflag-1": ("metric", "model"),
}
TINY_NAME = "python:tests.helpers.factories:tiny"
DEFAULT_NAME = "efficientnet-lite0"
OPTIONS = ("--image-size", "14", "--limit", "2", "--device", "cpu", "--target", "auto", "-o", "run", "--json")


def test_all_tables_exist():
    assert set(TABLES) == set(VALUE_COUNTS)


@pytest.mark.parametrize("name", ON_IMAGES)
def test_table_runs_on_two_images(xp, name):
    model_name = DEFAULT_NAME if name == "mfaba-1" else TINY_NAME
    ran = xp("evaluate", SAMPLES, "--config", TABLES[name], "-m", model_name, *OPTIONS)
    (summary,) = ran.records
    table = tomllib.loads(TABLES[name].read_text())
    check_differences(summary["published"]["differences"], table, model_name)
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


def check_differences(differences: list[str], table: dict, model: str) -> None:
    """Check the differences of a run on two of the sample photographs."""
    stated, options = table["published"]["settings"], table["evaluate"]
    models = {figure["model"]: None for figure in table["published"]["figures"]} or options["model"]
    expected = [f"model {model} (table: {', '.join(models)})"]
    size = f"{options['image-size']} x {options['image-size']}" if "image-size" in options else "the model's own"
    expected.append(f"image size 14 x 14 (table: {size})")
    expected.append("data set samples (table: ImageNet)")
    if "images" in stated:
        expected.append(f"images 2 (table: {stated['images']})")
    if "target" in options:
        expected.append(f"target auto (table: {options['target']})")
    assert [difference.replace(str(SAMPLES), "samples") for difference in differences] == expected


def test_speed_table_runs_on_two_images(xp, fast_commands):
    options = ("--image-size", "14", "--device", "cpu", "--images", 2, "--repeats", 1, "--json")
    ran = xp("bench", "--config", TABLES["mfaba-3"], "-m", TINY_NAME, *options)
    assert ran.code == 0, ran.err
    *records, table = ran.records
    runs = [record for record in records if record["kind"] == "run"]
    assert len(runs) == 2 * 4
    assert [run["published"] for run in runs] == [None] * 8  # another model
    assert table["kind"] == "published"
    assert table["differences"][TINY_NAME][-1].endswith("(table: RTX 3090)")
    speeds = PublishedSpeeds.of(read_published(TABLES["mfaba-3"]), ModelOptions(), 2)
    values = [speeds.annotate({**run, "model": "resnet50.IMAGENET1K_V1"})["published"] for run in runs]
    assert values == [None, 0.3704, None, 6.7568, None, 0.2846, None, 51.5827]


def test_figure_of_retraining_runs_on_few_images(xp, tmp_path):
    images = write_set(make_set(12, 6), tmp_path / "patches")
    metric = "roar:fractions=50,epochs=1,trials=1,network=small"
    ran = xp("evaluate", images, "--config", TABLES["dga-figure-5"], "-M", metric, "--device", "cpu", "-o", "run")
    assert ran.code == 0, ran.err
    assert "| published |" not in ran.out
    assert (
        "\nPublished table, without values:\n- Jeon, Jeong and Choi, DGA (NeurIPS 2022), Figure 5: CIFAR-10" in ran.out
    )
    assert (
        f"**Warning:** this run differs from the published table in data set {images} (table: CIFAR-10)." in ran.lines
    )
    assert (
        sum(line.startswith("| roar") for line in ran.lines) == 7 + 1
    )  # the methods with the control, and the curves' header


@pytest.mark.parametrize(("name", "per_image"), [("ma-gig-diffid", 1), ("spectral-ig-diffid", 3)])
def test_commented_methods_accept_a_folder(name, per_image):
    """The methods that need a folder of images, with ``DIR`` filled in."""
    commented = re.findall(r'^  # "(.*)",$', TABLES[name].read_text(), re.MULTILINE)
    assert [text.split(":")[0] for text in commented] == ["ig2", "lpi"]
    choices = [Choice.parse(text.replace("DIR", str(SAMPLES))) for text in commented]
    ig2, lpi = resolve_methods(choices, "prob", xplain.load_classifier(factories.tiny(), "cpu", image_size=14))
    assert (ig2.settings["references_per_image"], ig2.settings["step_size"]) == (per_image, 0.0045)
    assert lpi.rows_per_image == 200
    assert ig2.references.shape == lpi.references.shape == (4, 3, 14, 14)


def test_differences_of_figure_4_are_those_of_table_1():
    values = {
        (figure["model"], figure["method"], figure["metric"]): figure["value"]
        for name in ("neflag-1", "neflag-figure-4")
        for figure in tomllib.loads(TABLES[name].read_text())["published"]["figures"]
    }
    pairs = {(model, method) for model, method, _ in values}
    assert len(pairs) == 24
    for model, method in pairs:
        difference = values[model, method, "insertion"] - values[model, method, "deletion"]
        assert values[model, method, "difference"] == pytest.approx(difference, abs=1e-9)


@pytest.mark.parametrize("name", ROW_KEYS)
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
        "mfaba-3": ("efficientnet_b0", "agi", "images/s", 0.2096),
        "neflag-figure-4": ("vgg19", "agi:classes=20", "difference", 0.361),
        "neflag-1": ("resnet152.IMAGENET1K_V1", "neflag:samples=1", "deletion", 0.055),
    }
    for name, (model, method, metric, value) in by_hand.items():
        figures = tomllib.loads(TABLES[name].read_text())["published"]["figures"]
        assert {"model": model, "method": method, "metric": metric, "value": value} in figures


def test_guide_names_every_table():
    guide = Path(ROOT, "samples", "guides", "paper-tables.md").read_text()
    assert all(f"`{name}.toml`" in guide for name in TABLES)
