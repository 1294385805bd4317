"""The default run directory of ``xplain evaluate``: one per recipe, and the same one for the same command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.helpers.factories import tiny
from xplain.core.config import Choice, EvaluateConfig
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.pipelines.run_folders import choose_run_folder, describe_request

METRIC = ("-a", "sm", "-M", "deletion:steps=2")
NAME = "photos.python-tests.helpers.factories-tiny"
RUNS = Path("xplain-runs")


def list_runs() -> list[str]:
    return sorted(path.name.removeprefix(NAME) for path in RUNS.iterdir())


RECIPES = {
    "plain": ("photos",),
    "weights": ("photos", "--weights", "a.pt"),
    "other weights": ("photos", "--weights", "b.pt"),
    "size": ("photos", "--image-size", "24"),
    "size and seed": ("photos", "--image-size", "24", "--seed", "1"),
    "classes": ("photos", "--classes", "classes.txt"),
    "labels": ("photos", "--labels", "one.csv"),
    "other labels": ("photos", "--labels", "two.csv"),
    "score": ("photos", "--score", "prob"),
    "first": ("photos", "--per-class", "1", "--per-class-order", "first"),
    "other data": ("other/photos",),
    "target": ("photos", "--target", "label"),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that RECIPES name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cat/a", "espresso/b", "rocket/c"):
        path = Path(f"photos/{name}.png")
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = tiny()
        torch.nn.init.normal_(model.head.weight)
        torch.save(model.state_dict(), f"{name}.pt")
    shutil.copytree("photos", "other/photos")
    shutil.copy("photos/espresso/b.png", "other/photos/cat/a.png")
    Path("classes.txt").write_text("espresso\ncat\nrocket\nastronaut\nnothing\n")
    Path("one.csv").write_text("cat/a,cat\nespresso/b,1\nrocket/c,2\n")
    Path("two.csv").write_text("cat/a,rocket\nespresso/b,1\nrocket/c,2\n")


@pytest.fixture
def run(xp, files):
    """A function that evaluates a recipe, or other arguments, without -o."""
    return lambda *arguments: xp("evaluate", *TINY, *METRIC, *RECIPES.get(arguments[0], arguments))


def test_recipes_have_distinct_folders(run, method_calls):
    first = [run(name) for name in RECIPES]
    assert [ran.code for ran in first] == [0] * len(RECIPES), [ran.err for ran in first]
    assert len(list_runs()) == len(RECIPES)
    assert {"", ".label.fp32.seed=0"} < set(list_runs())
    del method_calls.sizes[:]
    assert [run(name).out for name in RECIPES] == [ran.out for ran in first]
    assert (method_calls.sizes, len(list_runs())) == ([], len(RECIPES))


@pytest.mark.parametrize(
    "more",
    [
        ("-a", "gxi"),
        ("-M", "insertion:steps=2"),
        ("--limit", "2"),
        ("--per-class", "1"),
        ("--per-class", "1", "--per-class-order", "random"),
        ("--batch-size", "1"),
        ("--save-maps",),
        ("--seed", "0"),
    ],
)
def test_run_is_extended_in_its_folder(run, more):
    assert run("photos").code == 0
    assert run("photos/../photos", *more).code == 0
    assert list_runs() == [""]


def make_former(folder: Path) -> None:
    """Make a run directory look like that of an earlier version, which stored no request."""
    description = json.loads((folder / "run.json").read_text())
    del description["request"]
    (folder / "run.json").write_text(json.dumps(description))


@pytest.mark.parametrize("name", RECIPES)
def test_run_of_earlier_version_is_continued(run, method_calls, name):
    first = run(name)
    make_former(RUNS / NAME)
    del method_calls.sizes[:]
    again = run(name)
    assert (again.code, again.out, method_calls.sizes, list_runs()) == (0, first.out, [], [""])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("plain", "weights"),
        ("weights", "plain"),
        ("weights", "other weights"),
        ("plain", "size"),
        ("size", "plain"),
        ("plain", "classes"),
        ("plain", "other data"),
        ("plain", "score"),
        ("size", "target"),
    ],
)
def test_run_of_earlier_version_is_not_mixed(run, first, second):
    """Its request is unknown, but a run of another recipe gets another folder."""
    before = run(first)
    make_former(RUNS / NAME)
    former = (RUNS / NAME / "run.json").read_bytes()
    for _ in range(2):
        ran = run(second)
        assert ran.code == 0, ran.err
        assert len(list_runs()) == 2
        assert (RUNS / NAME / "run.json").read_bytes() == former
    assert run(first).out == before.out
    assert len(list_runs()) == 2


def test_folder_that_names_settings_is_continued(xp, run, method_calls):
    """An earlier version named it ``.label.fp32.seed=0``."""
    options = ("--target", "label", "--image-size", "24")
    named = RUNS / f"{NAME}.label.fp32.seed=0"
    xp("evaluate", "photos", *TINY, *METRIC, *options, "-o", named)
    run("plain")
    make_former(named)
    del method_calls.sizes[:]
    assert run("photos", *options).code == 0
    assert (method_calls.sizes, list_runs()) == ([], ["", ".label.fp32.seed=0"])


@pytest.mark.parametrize(
    ("name", "file", "text", "words"),
    [
        ("classes", "classes.txt", "cat\nespresso\nrocket\nx\ny\n", "contains a run with a different class_names"),
        ("labels", "one.csv", "cat/a,2\nespresso/b,1\nrocket/c,2\n", "holds a run with other labels"),
    ],
)
def test_changed_file_of_same_command_is_refused(run, name, file, text, words):
    assert run(name).code == 0
    Path(file).write_text(text)
    ran = run(name)
    assert (ran.code, ran.err.count("\n"), list_runs()) == (2, 1, [""])
    assert words in ran.err


@pytest.mark.parametrize("other", ["size", "other labels"])
def test_command_that_loses_a_race_uses_another_folder(run, monkeypatch, other):
    """Another command begins its run in the chosen folder while this one loads its model."""
    from xplain.pipelines import evaluation_plan

    load = evaluation_plan.load_model

    def lose(*arguments):
        monkeypatch.setattr(evaluation_plan, "load_model", load)
        assert run(other).code == 0
        return load(*arguments)

    monkeypatch.setattr(evaluation_plan, "load_model", lose)
    assert run("labels").code == 0
    requests = {path.name: json.loads((path / "run.json").read_text())["request"] for path in RUNS.iterdir()}
    assert len(requests) == 2
    assert requests[NAME].get("labels") == ("two.csv" if other == "other labels" else None)


def test_request_does_not_depend_on_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = EvaluateConfig(
        ModelOptions(weights=Path("w/../w.pt"), device="cpu", offline=True),
        ComputeOptions(batch_size=3),
        dataset=f"{tmp_path}/photos/",
        methods=(Choice("sm"),),
        metrics=(),
        output=Path(),
        labels="/far/../x\0.csv",
    )
    expected = {"dataset": "photos", "model": "efficientnet-lite0", "weights": "w.pt", "labels": "/far/../x\0.csv"}
    assert describe_request(config) == expected
    assert choose_run_folder(Path("runs/a"), config) == Path("runs/a")
