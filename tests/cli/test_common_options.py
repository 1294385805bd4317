"""Options that several commands share: each command offers them by flag, environment and file, and passes them to its configuration."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import typer

import xplain
from tests.conftest import SAMPLES, TINY, interrupt
from xplain.cli.app import app
from xplain.core.options import ComputeOptions, ModelOptions, PictureOptions, PixelOptions, RenderOptions

CAT = SAMPLES / "cat.jpg"
COMMON = {
    "-m", "--model", "--weights", "--classes", "--image-size", "--device", "--offline", "--precision", "-b", "--batch-size", "--seed",
    "--threads", "--engine", "--mean", "--std", "-o", "--output", "--json", "-q", "--quiet", "--no-progress", "--config", "--version",
}  # fmt: skip
# list computes nothing and prints to standard output; cite loads no model, and BibTeX has one form
MISSING = {
    "list": {"--precision", "-b", "--batch-size", "--seed", "--threads", "--engine", "-o", "--output"},
    "cite": COMMON - {"--version"},
}
BY_FLAG_ONLY = {"--version", "--help"}
ARGUMENTS = {
    "explain": ["explain", "x.jpg"],
    "evaluate": ["evaluate", "x"],
    "compare": ["compare", "x.jpg"],
    "bench": ["bench"],
    "list": ["list", "methods", "--model", "x"],
}
RUNNERS = {  # called with the configuration as their first argument
    "explain": "xplain.cli.explain._run",
    "evaluate": "xplain.cli.evaluate._run",
    "compare": "xplain.cli.compare._compare_images",
    "bench": "xplain.cli.bench._run",
    "list": "xplain.pipelines.catalog.list_fits",
}
VALUES = {  # by option: the text on the command line, and the value in the configuration
    ModelOptions: {
        "weights": ("w.pt", Path("w.pt")),
        "classes": ("c.txt", Path("c.txt")),
        "mean": ("0.5,0.25,0", (0.5, 0.25, 0.0)),
        "std": ("0.5", (0.5,)),
        "image-size": (99, 99),
        "device": ("cpu", "cpu"),
        "offline": (True, True),
        "activation": ("sigmoid", "sigmoid"),
        "logits": ("heads.sex", "heads.sex"),
        "threshold": (0.25, 0.25),
        "prompt": ("a cat by the sea", ("a cat by the sea",)),
        "template": ("a photo of a {}", ("a photo of a {}",)),
    },
    ComputeOptions: {
        "precision": ("bf16", "bf16"),
        "batch-size": (7, 7),
        "seed": (5, 5),
        "threads": (2, 2),
        "engine": ("openvino", "openvino"),
    },
    PixelOptions: {
        "bands": ("3,2,1", (3, 2, 1)),
        "input-bands": ("2,1", (2, 1)),
        "axes": ("hwc", "hwc"),
        "range": ("0,4095", (0.0, 4095.0)),
        "clip-range": (True, True),
    },
    RenderOptions: {
        "clip": ("10,90", (10.0, 90.0)),
        "sign": ("signed", "signed"),
        "reduce": ("max", "max"),
        "cmap": ("viridis", "viridis"),
        "opacity": (0.25, 0.25),
    },
    PictureOptions: {"on": ("original", "original"), "scale": (3, 3)},
}


def options_of(command: str) -> dict[str, str | None]:
    """Return the environment variable of each option of a command, by each name of the option."""
    parameters = typer.main.get_command(app).commands[command].params
    return {name: parameter.envvar for parameter in parameters for name in parameter.opts if name.startswith("-")}


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_command_offers_common_options(command):
    assert COMMON - options_of(command).keys() == MISSING.get(command, set())


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_option_names_its_environment_variable(command):
    for name, variable in options_of(command).items():
        if name.startswith("--") and name not in BY_FLAG_ONLY:
            assert variable == f"XPLAIN_{name[2:].upper().replace('-', '_')}", name


@pytest.fixture
def groups(monkeypatch) -> dict[type, object]:
    """The option groups of the configurations that commands would run, by type; nothing is run."""
    received: dict[type, object] = {}

    def keep(config, *_) -> int | list:
        if isinstance(config, list):  # evaluate has one configuration per model
            (config,) = config
        if isinstance(config, ModelOptions):  # all that list needs
            received[ModelOptions] = config
            return []
        for field in fields(config):
            if is_dataclass(value := getattr(config, field.name)):
                received[type(value)] = value
        return 0

    for runner in RUNNERS.values():
        monkeypatch.setattr(runner, keep)
    return received


def groups_of(command: str) -> list[type]:
    """Return the option groups that a command has."""
    if command == "list":
        return [ModelOptions]
    groups = [ModelOptions, ComputeOptions, PixelOptions]
    if command in ("explain", "compare"):
        groups.append(RenderOptions)
    return [*groups, PictureOptions] if command == "explain" else groups


def by_flag(texts: dict, monkeypatch) -> list[str]:
    arguments = []
    for name, text in texts.items():
        arguments += [f"--{name}"] if text is True else [f"--{name}", str(text)]
    return arguments


def by_environment(texts: dict, monkeypatch) -> list[str]:
    for name, text in texts.items():
        monkeypatch.setenv(f"XPLAIN_{name.upper().replace('-', '_')}", str(text))
    return []


def by_file(texts: dict, monkeypatch) -> list[str]:
    lines = [f"{name} = {json.dumps(text)}" for name, text in texts.items()]
    Path("c.toml").write_text("\n".join(lines))
    return ["--config", "c.toml"]


@pytest.mark.parametrize("kind", VALUES)
def test_values_cover_every_option(kind):
    """A new option of a group needs an entry in VALUES."""
    names = {name.replace("-", "_") for name in VALUES[kind]}
    assert names == {field.name for field in fields(kind)} - {"name"}


@pytest.mark.parametrize("source", [by_flag, by_environment, by_file])
@pytest.mark.parametrize("command", ARGUMENTS)
def test_option_reaches_the_configuration(xp, groups, monkeypatch, command, source):
    values = {name: value for kind in groups_of(command) for name, value in VALUES[kind].items()}
    ran = xp(*ARGUMENTS[command], *source({name: text for name, (text, _) in values.items()}, monkeypatch))
    assert (ran.code, ran.err) == (0, "")
    assert set(groups) == set(groups_of(command))
    for kind, group in groups.items():
        expected = {name.replace("-", "_"): value for name, (_, value) in VALUES[kind].items()}
        assert {name: getattr(group, name) for name in expected} == expected


@pytest.mark.parametrize("command", ARGUMENTS)
def test_option_defaults_are_the_group_defaults(xp, groups, command):
    assert xp(*ARGUMENTS[command]).code == 0
    assert set(groups) == set(groups_of(command))
    for kind, group in groups.items():
        names = [field.name for field in fields(kind) if field.name != "name"]
        assert [getattr(group, name) for name in names] == [getattr(kind(), name) for name in names]


def test_flag_precedes_environment_and_file(xp, groups, monkeypatch):
    Path("c.toml").write_text("seed = 1\nimage-size = 11\ndevice = 'cpu'\n")
    monkeypatch.setenv("XPLAIN_SEED", "2")
    monkeypatch.setenv("XPLAIN_IMAGE_SIZE", "22")
    xp("compare", "x.jpg", "--config", "c.toml", "--seed", "3")
    model = groups[ModelOptions]
    assert (groups[ComputeOptions].seed, model.image_size, model.device) == (3, 22, "cpu")


@pytest.mark.parametrize("flags", [["-q"], ["--quiet"], []])
def test_quiet_hides_notes(xp, monkeypatch, flags):
    model = ("-m", "python:tests.helpers.factories:untold", "--device", "cpu")
    assert xp("explain", CAT, *model, "-a", "center").err.startswith("xplain: note: ")
    if not flags:
        monkeypatch.setenv("XPLAIN_QUIET", "1")
    ran = xp("explain", CAT, *model, "-a", "center", "--overwrite", *flags)
    assert (ran.code, ran.err) == (0, "")


def test_quiet_hides_all_but_errors(xp, photos, method_calls):
    """Warnings of images, the final count and the line about the interruption are hidden; errors are not."""
    (photos / "cat" / "bad.jpg").write_text("x")
    arguments = ("explain", photos, *TINY, "-a", "sm")
    ran = xp(*arguments, "-q", "-o", "q")
    assert (ran.code, ran.err.count("\n")) == (5, 1)
    assert ran.err.startswith("xplain: error: ")
    assert xp(*arguments, "-o", "loud").err.splitlines()[-1] == "xplain: explanations written: 3, failures: 1"
    (photos / "cat" / "bad.jpg").unlink()
    for flags, text in (([], "xplain: interrupted; "), (["-q"], "")):
        method_calls.before[len(method_calls.sizes) + 1] = interrupt
        ran = xp(*arguments, *flags, "-o", "interrupted")
        assert (ran.code, ran.err[: len(text)], ran.err == "") == (130, text, not text)


def test_image_size_reaches_compare(xp):
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


def test_bench_size_precedes_image_size(xp, groups):
    sizes = []
    for flags in (["--size", "64"], ["--image-size", "64"], ["--size", "64", "--image-size", "32"], []):
        assert xp("bench", *flags).code == 0
        sizes.append(groups[ModelOptions].image_size)
    assert sizes == [64, 64, 64, None]


@pytest.mark.parametrize("flags", [["--no-progress"], ["-q"]])
def test_bench_prints_each_run(xp, monkeypatch, flags):
    record = {"kind": "run", "label": "sm", "model": "net", "images": 1, "program": "xplain"}
    monkeypatch.setattr("xplain.pipelines.benchmark.bench", lambda *_: [[record]])
    monkeypatch.setattr("xplain.reports.benchmark_report.benchmark_table", lambda records: "")
    assert xp("bench").err == "xplain: measured sm on net (images: 1, implementation: xplain)\n"
    assert xp("bench", *flags).err == ""
