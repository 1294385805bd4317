"""The options common to all commands: each command offers them, by flag, environment and file, and hands them on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer

import xplain
from tests.conftest import SAMPLES, TINY
from xplain.cli._options import Loading
from xplain.cli.app import app
from xplain.core.config import Compute
from xplain.core.errors import UsageError

CAT = SAMPLES / "cat.jpg"
COMMON = {
    "-m", "--model", "--weights", "--classes", "--image-size", "--device", "--offline", "--precision", "-b", "--batch-size", "--seed",
    "-o", "--output", "--json", "-q", "--quiet", "--no-progress", "--config", "--version",
}  # fmt: skip
# What has no meaning there: the answers of list are the same at any precision, rows a call and seed, and go to standard
# output; cite loads no model, and BibTeX has one form.
LACKING = {
    "list": {"--precision", "-b", "--batch-size", "--seed", "-o", "--output"},
    "cite": COMMON - {"--version"},
}
BY_FLAG_ONLY = {"--version", "--help"}
COMMANDS = {
    "explain": ["explain", "x.jpg"],
    "evaluate": ["evaluate", "x"],
    "compare": ["compare", "x.jpg"],
    "bench": ["bench"],
    "list": ["list", "methods"],
}
VALUES = {
    "weights": Path("w.pt"), "classes": Path("c.txt"), "image_size": 99, "device": "cpu",
    "precision": "bf16", "batch_size": 7, "seed": 5, "offline": True,
}  # fmt: skip
OF_LIST = ("weights", "classes", "image_size", "device", "offline")


def options(command: str) -> dict[str, str | None]:
    """By every name, long and short, the environment variable that sets the option."""
    found = typer.main.get_command(app).commands[command].params
    return {name: each.envvar for each in found for name in each.opts if name.startswith("-")}


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_every_command_offers_every_common_option(command):
    assert COMMON - options(command).keys() == LACKING.get(command, set())


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_every_option_can_be_set_by_the_environment(command):
    for name, variable in options(command).items():
        if name.startswith("--") and name not in BY_FLAG_ONLY:
            assert variable == f"XPLAIN_{name[2:].upper().replace('-', '_')}", name


@pytest.fixture
def asked(monkeypatch) -> list[Compute]:
    """What commands ask for, which then stop."""
    found, whole = [], Loading.compute

    def stop(*arguments):
        found.append(whole(*arguments))
        raise UsageError("stopped")

    monkeypatch.setattr(Loading, "compute", stop)
    return found


def by_flag(values: dict, monkeypatch) -> list[str]:
    flags = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    return [part for flag, value in flags.items() for part in ([flag] if value is True else [flag, str(value)])]


def by_environment(values: dict, monkeypatch) -> list[str]:
    for name, value in values.items():
        monkeypatch.setenv(f"XPLAIN_{name.upper()}", str(value))
    return []


def by_file(values: dict, monkeypatch) -> list[str]:
    lines = [f"{name} = {json.dumps(value, default=str)}" for name, value in values.items()]
    Path("c.toml").write_text("\n".join(lines))
    return ["--config", "c.toml"]


@pytest.mark.parametrize("way", [by_flag, by_environment, by_file])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_way_reaches_the_request(xp, asked, monkeypatch, command, way):
    values = {name: value for name, value in VALUES.items() if command != "list" or name in OF_LIST}
    ran = xp(*COMMANDS[command], *way(values, monkeypatch))
    assert (ran.code, ran.err) == (2, "xplain: error: stopped\n")
    (found,) = asked
    assert replace(found, model="") == Compute(model="", **values)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_given_is_the_default(xp, asked, command):
    xp(*COMMANDS[command])
    assert replace(asked[0], model="") == Compute(model="")


def test_a_flag_wins_over_the_environment_and_that_over_the_file(xp, asked, monkeypatch):
    Path("c.toml").write_text("seed = 1\nimage-size = 11\ndevice = 'cpu'\n")
    monkeypatch.setenv("XPLAIN_SEED", "2")
    monkeypatch.setenv("XPLAIN_IMAGE_SIZE", "22")
    xp("compare", "x.jpg", "--config", "c.toml", "--seed", "3")
    assert (asked[0].seed, asked[0].image_size, asked[0].device) == (3, 22, "cpu")


@pytest.mark.parametrize("flags", [["-q"], ["--quiet"], []])
def test_quiet_silences_notes_however_it_is_asked_for(xp, monkeypatch, flags):
    model = ("-m", "python:tests.helpers.factories:soft", "--device", "cpu")
    assert xp("explain", CAT, *model, "-a", "center").err.startswith("xplain: note: ")
    if not flags:
        monkeypatch.setenv("XPLAIN_QUIET", "1")
    ran = xp("explain", CAT, *model, "-a", "center", "--overwrite", *flags)
    assert (ran.code, ran.err) == (0, "")


def test_compare_takes_the_image_size(xp):
    args = ("compare", CAT, *TINY, "-a", "sm", "--no-metrics", "-o", "out", "--overwrite", "--json")
    (own,) = xp(*args).records
    (other,) = xp(*args, "--image-size", "48").records
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu", image_size=48)
    x = xplain.read_image(CAT, preprocessing=clf.preprocessing)[None].double()
    expected = float(clf(x).detach().softmax(dim=1).max())
    assert other["rows"][0]["target"]["probability"] == pytest.approx(expected, abs=1e-6)
    assert abs(own["rows"][0]["target"]["probability"] - expected) > 1e-4
    (facts,) = other["models"].values()
    assert facts["preprocessing"]["size"] == [48, 48]


def test_bench_knows_its_size_by_both_names(xp, monkeypatch):
    found = []
    monkeypatch.setattr(
        "xplain.pipelines.benchmark.bench", lambda config, output: found.append(config.model.image_size) or []
    )
    monkeypatch.setattr("xplain.reports.benchmark_report.benchmark_table", lambda records: "")
    for flags in (["--size", "64"], ["--image-size", "64"], ["--size", "64", "--image-size", "32"], []):
        assert xp("bench", *flags).code == 0
    assert found == [64, 64, 64, None]


@pytest.mark.parametrize("flags", [["--no-progress"], ["-q"]])
def test_bench_says_what_it_measures_unless_told_not_to(xp, monkeypatch, flags):
    record = {"kind": "run", "label": "sm", "model": "net", "images": 1, "program": "xplain"}
    monkeypatch.setattr("xplain.pipelines.benchmark.bench", lambda config, output: [[record]])
    monkeypatch.setattr("xplain.reports.tables.benchmark_table", lambda records: "")
    assert xp("bench").err == "xplain: measured sm on net (images: 1, program: xplain)\n"
    assert xp("bench", *flags).err == ""
