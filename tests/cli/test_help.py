"""``--help`` of each command: exit codes, environment variables, and examples that run."""

from __future__ import annotations

import re
import shlex
import shutil

import numpy as np
import pytest
import typer

from tests.conftest import SAMPLES
from xplain.cli._help import LAST_PANEL, PANELS, long_flag, panel_of
from xplain.cli.app import app
from xplain.core.registry import METHODS, METRICS

GROUP = typer.main.get_command(app)
TOY = ("-m", "python:tests.helpers.factories:imagenet_like", "--device", "cpu")
QUICK = {"explain": TOY, "evaluate": TOY, "compare": TOY}
RUNNERS = (
    "explain._run",
    "evaluate._run",
    "_known_truth.evaluate_known_truth",
    "bench._run",
    "compare._compare_images",
    "compare._compare_runs",
)
# they need downloaded weights, earlier runs, output of another program, or seconds of measuring
NOT_RUN = ("resnet50", "runs/a runs/b", "--files-from", "xplain bench")


def examples_of(command: str | None) -> list[str]:
    """Return the example lines in the help of a command or, for None, of xplain; each begins with ``xplain``, without redirection."""
    page = GROUP if command is None else GROUP.commands[command]
    lines = [line for line in page.help.splitlines() if line.startswith("  ")]
    return [re.sub(r"^.*\| | >> .*$", "", line.strip()) for line in lines]


EXAMPLES = sorted({line for command in (None, *GROUP.commands) for line in examples_of(command)})


@pytest.fixture
def photos_here(tmp_path):
    """The files that the examples name: cat.jpg, espresso.jpg, photos, maps/captum."""
    for name in ("cat.jpg", "espresso.jpg"):
        shutil.copy(SAMPLES / name, tmp_path)
    for name, wnid in (("cat.jpg", "n02123159"), ("espresso.jpg", "n07920052")):
        folder = tmp_path / "photos" / wnid
        folder.mkdir(parents=True)
        shutil.copy(SAMPLES / name, folder)
    (tmp_path / "maps" / "captum").mkdir(parents=True)
    for name in ("cat", "espresso"):
        np.save(tmp_path / "maps" / "captum" / f"{name}.npy", np.ones((32, 32)))


@pytest.mark.parametrize("command", GROUP.commands)
def test_command_has_examples(command):
    lines = examples_of(command)
    assert len(lines) >= 2
    assert all(shlex.split(line)[:2] == ["xplain", command] for line in lines)


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_valid(line, xp, monkeypatch, photos_here, tmp_path):
    for run in ("a", "b"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "run.json").write_text("{}")
    for name in ("list_fits", "list_model_layers", "list_models"):
        monkeypatch.setattr(f"xplain.pipelines.catalog.{name}", lambda *_: [])
    received = []
    for name in RUNNERS:
        monkeypatch.setattr(f"xplain.cli.{name}", lambda *arguments: received.append(arguments[0]) or 0)
    ran = xp(*shlex.split(line)[1:])
    assert (ran.code, ran.err) == (0, "")
    configs = [config for entry in received for config in (entry if isinstance(entry, list) else [entry])]
    for config in configs:
        for registry, choices in ((METHODS, "methods"), (METRICS, "metrics")):
            for choice in getattr(config, choices, ()):
                registry.get(choice.name).resolve(dict(choice.params))


@pytest.mark.parametrize("line", [line for line in EXAMPLES if not any(word in line for word in NOT_RUN)])
def test_examples_run(line, xp, photos_here):
    command, *rest = shlex.split(line)[1:]
    quick = ("--limit", "1") if "known:" in line else QUICK.get(command, ())
    ran = xp(command, *rest, *quick)
    assert ran.code == 0, ran.err
    assert ran.lines


@pytest.mark.parametrize("command", ["explain", "evaluate", "compare", "bench", "list"])
def test_help_lists_exit_codes_and_variables(command, xp):
    text = xp(command, "--help").out
    assert re.search(r"\n +5  partial success: some items failed", text)
    assert re.search(r"\n +130  interrupted", text)
    assert text.rstrip().splitlines()[-1].strip() == (
        "Environment variables: XPLAIN_<OPTION>, such as XPLAIN_MODEL or XPLAIN_BATCH_SIZE."
    )
    assert text.count("XPLAIN_BATCH_SIZE") == 1
    assert max(map(len, text.splitlines())) <= 110


def test_every_option_has_a_panel():
    unknown = [
        long_flag(param)
        for command in GROUP.commands.values()
        for param in command.params
        if param.param_type_name == "option" and panel_of(param) == LAST_PANEL
    ]
    assert unknown == []


def test_panels_and_types_of_options(xp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    text = xp("explain", "--help").out
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings == ["Arguments", *PANELS]
    panels = dict(zip(headings, re.split(r"^\w[\w ]*:$", text, flags=re.MULTILINE)[1:], strict=True))
    assert "\n  -m, --model MODEL " in panels["Model"]
    assert "\n  -b, --batch-size N|auto " in panels["Compute"]
    assert re.search(r"\n  --seed N +Random seed. \[at least 0; default: 0\]\n", panels["Compute"])
    assert "\n  --sign positive|negative|absolute|signed\n" in panels["Output"]
    assert re.search(r"\n  --opacity X +Opacity of the overlay, from 0 to 1. \[between 0 and 1; default: 0.8\]", text)
    assert re.search(r"\n  -0, --null  +Paths", panels["Input"])
    assert not re.search(r"<(str|int|float|path|list)", text)


def test_model_help_names_every_form(xp):
    text = " ".join(xp("compare", "--help").out.split())
    forms = (
        "efficientnet-lite0 resnet50 timm:NAME hf:REPOSITORY[@REVISION] hf:FOLDER clip:ARCHITECTURE[/TAG] clip:FOLDER"
    )
    for form in (*forms.split(), "python:PACKAGE.MODULE:FACTORY", "script:FILE", "export:FILE", "onnx:FILE"):
        assert form in text, form


def test_variable_in_help_sets_option(xp, monkeypatch, photos_here):
    """The environment variable is XPLAIN_<OPTION>; a flag takes precedence."""
    monkeypatch.setenv("XPLAIN_SEED", "7")
    assert xp("explain", "cat.jpg", "-a", "random", *TOY, "--json").records[0]["seed"] == 7
    assert xp("explain", "cat.jpg", "-a", "random", *TOY, "--json", "--seed", "8", "-o", "b").records[0]["seed"] == 8
