"""Values of options from a file, the environment and the command line: errors, and ``~``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Literal

import pytest

from tests.conftest import SAMPLES, TINY
from xplain.cli._groups import option
from xplain.cli._values import ValueType, expand_home

CAT = SAMPLES / "cat.jpg"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('seed = "many"', "invalid value for 'seed' in c.toml: 'many'; use an integer >= 0"),
        ("seed = 2.5", "invalid value for 'seed' in c.toml: 2.5; use an integer >= 0"),
        ("seed = true", "invalid value for 'seed' in c.toml: true; use an integer >= 0"),
        ("seed = {a = 1}", "invalid value for 'seed' in c.toml: {'a': 1}; use an integer >= 0"),
        ("seed = -1", "invalid value for 'seed' in c.toml: -1; use an integer >= 0"),
        ("opacity = 1.5", "invalid value for 'opacity' in c.toml: 1.5; use a number between 0 and 1"),
        ("opacity = nan", "invalid value for 'opacity' in c.toml: nan; use a number between 0 and 1"),
        ("overwrite = 7", "invalid value for 'overwrite' in c.toml: 7; use true or false"),
        ("output = 12:30:00", "invalid value for 'output' in c.toml: 12:30:00; use a path"),
        ('output = ["a", "b"]', "invalid value for 'output' in c.toml: ['a', 'b']; use a path, not a list"),
        ("method = [true]", "invalid value for 'method' in c.toml: [True]; use text"),
        ('[explain]\nsign = "postive"', "invalid value for 'sign' in c.toml: 'postive'; did you mean 'positive'?"),
        ('precision = "fp8"', "invalid value for 'precision' in c.toml: 'fp8'; use fp32, tf32 or bf16"),
        (
            'method = ["sm", "smothgrad"]',
            "method in c.toml: unknown method 'smothgrad'; did you mean 'smoothgrad' or 'smooth'?",
        ),
        ('method = "ig:steps=no"', "method in c.toml: integrated-gradients: invalid value steps=no; use an integer"),
        ('method = "ig:stepps=3"', "method in c.toml: integrated-gradients has no parameter 'stepps'; did you mean"),
        ('clip = "90"', "clip in c.toml: invalid clip '90'; use"),
        ('batch_size = "big"', "batch-size in c.toml: invalid batch size 'big'; use auto"),
        ('save = "overlays"', "save in c.toml: unknown value 'overlays' for --save; choose from"),
        ("target = 99", "target in c.toml: class index 99 is out of range; use an index from 0 to "),
        ('layer = "conv99"\nmethod = "grad-cam"', "layer in c.toml: the model has no layer 'conv99'"),
        ('weights = "none.pt"', "weights in c.toml: weights file 'none.pt' not found"),
    ],
)
def test_bad_value_in_file_names_file_key_and_value(xp, line, message):
    Path("c.toml").write_text(line)
    ran = xp("explain", CAT, *TINY, "--config", "c.toml")
    assert ran.code in (2, 3)
    assert ran.err.startswith(f"xplain: error: {message}"), ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("SEED", "one", "invalid value for XPLAIN_SEED: 'one'; use an integer >= 0"),
        ("QUIET", "perhaps", "invalid value for XPLAIN_QUIET: 'perhaps'; use true or false"),
        ("REDUCE", "average", "invalid value for XPLAIN_REDUCE: 'average'; use sum, mean, abs-sum or max"),
        ("METHOD", "sm agii", "XPLAIN_METHOD: unknown method 'agii'; did you mean 'agi'?"),
        ("CMAP", "hott", "XPLAIN_CMAP: unknown colormap 'hott'; did you mean"),
    ],
)
def test_bad_value_in_environment_names_variable(xp, monkeypatch, name, text, message):
    monkeypatch.setenv(f"XPLAIN_{name}", text)
    assert xp("explain", CAT, *TINY).err.startswith(f"xplain: error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", CAT, "--seed", "one"], "invalid value for '--seed': 'one'; use an integer >= 0"),
        (["explain", CAT, "--opacity", "2"], "invalid value for '--opacity': '2'; use a number between 0 and 1"),
        (["evaluate", "photos", "--limit", "0"], "invalid value for '--limit': '0'; use an integer >= 1"),
        (["bench", "--peer", "captun"], "invalid value for '--peer': 'captun'; did you mean 'captum'?"),
        (["list", "method"], "invalid value for 'kind': 'method'; did you mean 'methods'"),
    ],
)
def test_bad_value_on_command_line_names_option_only(xp, monkeypatch, arguments, message):
    monkeypatch.setenv("XPLAIN_LAYER", "one")  # of another option: the error must not name it
    ran = xp(*arguments)
    assert ran.code == 2
    assert ran.err.startswith(f"xplain: error: {message}"), ran.err


def test_value_on_command_line_hides_bad_values_elsewhere(xp, monkeypatch):
    Path("c.toml").write_text('method = "agii"\n')
    monkeypatch.setenv("XPLAIN_METHOD", "agiii")
    ran = xp("explain", CAT, *TINY, "-a", "smm", "--config", "c.toml")
    assert ran.err.startswith("xplain: error: unknown method 'smm'; did you mean 'sm'")


def test_values_in_file_are_converted(xp):
    Path("c.toml").write_text('target = 1\nsave = "raw"\nquiet = "yes"\nopacity = 1\nseed = "3"\nbatch-size = 2\n')
    ran = xp("explain", CAT, *TINY, "-a", "sm", "--config", "c.toml", "--json")
    assert (ran.code, ran.err) == (0, "")
    (record,) = ran.records
    assert (record["target"]["index"], record["seed"], list(record["files"])) == (1, 3, ["raw"])


def test_accepted_values_are_described():
    kinds = {
        Annotated[list[str], option("--a", help="")]: "text",
        Annotated[float, option("--a", help="", max=2)]: "a number <= 2",
        Annotated[Literal["b", "c"] | None, option("--a", help="")]: "b or c",
    }
    assert {kind: ValueType.read(kind).description for kind in kinds} == kinds


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home"
    (folder / "photos").mkdir(parents=True)
    shutil.copy(CAT, folder / "photos")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/a", "HOME/a"),
        ("~", "HOME"),
        ("@~/list.txt", "@HOME/list.txt"),
        ("script:~/net.pt", "script:HOME/net.pt"),
        ("eg:baselines=~/photos", "eg:baselines=HOME/photos"),
        ("torchvision:CIFAR10:~/data", "torchvision:CIFAR10:HOME/data"),
        ("~nobody-here/a", "~nobody-here/a"),
        ("a~/b", "a~/b"),
        ("a/~/b", "a/~/b"),
        ("backup~", "backup~"),
    ],
)
def test_expand_home_of_text(home, text, expected):
    assert expand_home(text) == expected.replace("HOME", str(home))


def test_home_is_expanded_on_command_line(xp, home):
    shutil.copy(SAMPLES / "espresso.jpg", home / "photos")
    ran = xp("explain", "~/photos/cat.jpg", *TINY, "-a", "eg:samples=2,baselines=~/photos", "-o", "~/out")
    assert (ran.code, ran.lines) == (0, [str(home / "out" / "cat.expected-gradients.overlay.png")])


def test_home_is_expanded_in_environment_and_file(xp, home, monkeypatch):
    (home / "c.toml").write_text('output = "~/from-file"\n')
    (home / "list.txt").write_text(str(CAT))
    monkeypatch.setenv("XPLAIN_FILES_FROM", "~/list.txt")
    ran = xp("explain", *TINY, "-a", "sm", "--config", "~/c.toml")
    assert (ran.code, ran.lines) == (0, [str(home / "from-file" / "cat.saliency.overlay.png")])


def test_home_is_expanded_in_data_set_and_run(xp, home):
    ran = xp("evaluate", "~/photos", *TINY, "-a", "sm", "-M", "deletion:steps=2", "-o", "~/run", "--json")
    assert ran.code == 0
    run = json.loads((home / "run" / "run.json").read_text())
    assert run["dataset"]["location"] == str(home / "photos")
    assert xp("compare", "~/run", "~/run", "-o", "~/compared").err.count("~") == 0


def test_expand_home_keeps_nul_bytes():
    assert expand_home(["~\0", "a"]) == ["~\0", "a"]
