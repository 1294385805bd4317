"""The README and the guides against the package: links, counts, commands and code."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, SAMPLES
from xplain.pipelines import catalog

README = ROOT / "README.md"
GUIDES = SAMPLES / "guides"
PAGES = [README, *sorted(GUIDES.glob("*.md"))]
TEXTS = {page.name: page.read_text("utf-8") for page in PAGES}


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page.name]):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


def test_readme_is_short_and_links_to_every_guide():
    assert len(TEXTS["README.md"].splitlines()) <= 200
    linked = set(re.findall(r"\(samples/guides/([\w-]+\.md)\)", TEXTS["README.md"]))
    assert linked == {page.name for page in PAGES[1:]}


def test_counts_of_methods_and_metrics():
    text = TEXTS["README.md"]
    methods, metrics = len(catalog.list_methods()), len(catalog.list_metrics())
    assert f"\n{methods} methods, {metrics} metrics, " in text
    assert f"| attribution methods for images | {methods} |" in text
    assert f"| metrics of explanations | {metrics} |" in text


def test_test_command_matches_ci():
    command = next(line for line in TEXTS["README.md"].splitlines() if line.endswith("-m pytest"))
    script = (ROOT / ".ci" / "run").read_text().replace(" -q -e", " -e")
    assert command in script


RECIPE_COMMANDS = ("xplain explain", "xplain compare", "xplain evaluate ./imagenet_val", "xplain list", "xplain cite")
SKIPPED = ("resnet", "cuda", "samples/tables", "my_digits", "voc", "roar", "known:")  # need data, a GPU or a minute
TOY = ("-m", "python:tests.helpers.factories:imagenet_like", "--device", "cpu")


def shell_lines() -> list[str]:
    """Return the lines of every shell block of every page, without their comments."""
    blocks = [block for text in TEXTS.values() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    return [line.split("  #")[0].strip() for line in "\n".join(blocks).splitlines()]


RECIPES = [
    line for line in dict.fromkeys(shell_lines()) if line.startswith(RECIPE_COMMANDS) and not re.search(r"[|>]", line)
]
PIPELINES = [line for line in shell_lines() if re.search(r"[|>]|^XPLAIN_", line) and "xplain" in line]


@pytest.fixture
def recipe_folder(tmp_path):
    """Make the files that the recipes name: samples, photos, ./imagenet_val, its boxes and maps."""
    shutil.copytree(SAMPLES, tmp_path / "samples")
    for folder in ("photos", "imagenet_val"):
        for name, wnid in (("cat", "n02123159"), ("espresso", "n07920052")):
            class_folder = tmp_path / folder / wnid
            class_folder.mkdir(parents=True)
            shutil.copy(SAMPLES / f"{name}.jpg", class_folder)
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\ncat.jpg,10,10,200,200\nespresso.jpg,10,10,200,200\n")
    (tmp_path / "captum_maps").mkdir()
    for name in ("cat", "espresso"):
        np.save(tmp_path / "captum_maps" / f"{name}.npy", np.ones((32, 32)))
    return tmp_path


def is_run(command: list[str]) -> bool:
    """Return whether a command evaluates a data set, or compares such runs; later commands add methods to the runs of earlier ones."""
    return command[0] == "evaluate" or command[:2] == ["compare", "runs/a"]


def test_commands_run_in_order_twice(xp, recipe_folder):
    """Run the commands in one folder, as a reader does; nothing is refused because of what an earlier one wrote."""
    commands = [shlex.split(line)[1:] for line in RECIPES if not any(word in line for word in SKIPPED)]
    outputs = []
    for _ in range(2):
        for command in commands:
            is_toy = command[0] in ("explain", "evaluate", "compare") and "runs/a" not in command[:2]
            ran = xp(*command, *(TOY if is_toy else ()))
            assert ran.code == 0, (command, ran.err)
            assert ran.lines
            outputs.append(ran.out)
    first, second = outputs[: len(commands)], outputs[len(commands) :]
    changed = [c for c, a, b in zip(commands, first, second, strict=True) if a != b and not is_run(c)]
    assert not changed


TERMINAL_COMMANDS = [
    "xplain explain samples/cat.jpg -a ig:steps=4 --save figure",
    "xplain list methods",
    "xplain explain --help",
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a pseudo terminal")
def test_commands_run_in_a_narrow_terminal_without_utf8(recipe_folder):
    """Run commands in a terminal of 80 columns, in the C locale, with a backend that matplotlib no longer has."""
    import pty

    settings = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "MPLBACKEND": "Qt4Agg",
        "COLUMNS": "80",
        "TERM": "xterm",
        "PYTHONPATH": str(ROOT),
        "XPLAIN_MODEL": TOY[1],
        "XPLAIN_DEVICE": "cpu",
    }
    script = (
        "import shlex, sys; from xplain.__main__ import main; sys.argv = ['xplain', *shlex.split(sys.argv[1])]; main()"
    )
    for line in TERMINAL_COMMANDS:
        terminal, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", script, line.removeprefix("xplain ")],
            stdout=follower,
            stderr=follower,
            cwd=recipe_folder,
            env={**os.environ, **settings},
        )
        os.close(follower)
        text = b""
        while True:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # the process has closed the terminal
                break
            if not chunk:
                break
            text += chunk
        os.close(terminal)
        assert process.wait() == 0, (line, text)
        assert b"Traceback" not in text
        assert text.isascii()


@pytest.mark.parametrize("line", PIPELINES)
def test_pipelines_run(line, recipe_folder):
    """Run each line with a pipe or a redirection in a shell whose ``xplain`` uses a small network."""
    missing = [tool for tool in ("bash", "jq", "curl") if tool in f"bash {line}" and shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {missing[0]}")
    command = recipe_folder / "bin" / "xplain"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m xplain "$@"\n')
    command.chmod(0o755)
    settings = {
        "PATH": os.pathsep.join((str(command.parent), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "URL": (SAMPLES / "cat.jpg").as_uri(),
        "XPLAIN_MODEL": TOY[1],
        "XPLAIN_DEVICE": "cpu",
    }
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        cwd=recipe_folder,
        env=os.environ | settings,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    written = [recipe_folder / name for name in re.findall(r"> (\S+)", line)]
    assert ran.stdout or all(path.stat().st_size for path in written)


def test_pages_have_recipes_and_pipelines():
    """Guard against pages whose commands the tests above do not match."""
    assert len(PIPELINES) == 5
    assert len(RECIPES) >= 25


def test_new_method_guide(tmp_path):
    """Follow the guide in a copy of the package."""
    module, line = re.findall(r"```python\n(.*?)```", TEXTS["new-method.md"], re.DOTALL)[:2]
    shutil.copytree(ROOT / "xplain", tmp_path / "xplain", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "xplain" / "methods" / "gradient_share.py").write_text(module, "utf-8")
    with (tmp_path / "xplain" / "methods" / "__init__.py").open("a") as stream:
        stream.write(line)
    check = """
import torch, xplain
from tests.helpers import toys
clf, x = toys.classifier(toys.small_net(1)), toys.images(3)
gradient = xplain.attribute(clf, x, "saliency", score="logit").values
share = xplain.attribute(clf, x, "gs", power=2).values
torch.testing.assert_close(share.abs().sum((1, 2, 3)), torch.ones(3, dtype=share.dtype))
torch.testing.assert_close(share.abs().sqrt() * gradient.norm(p=2, dim=(1, 2, 3), keepdim=True), gradient.abs())
from xplain.cli.app import run
raise SystemExit(run(["list", "methods", "--search", "gradient-share"]))
"""
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    ran = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (
        ran.stdout == "gradient-share\tgs\tpower=1.0\t1 F, 1 B\t\t\tDivide the gradient by the sum of its magnitudes.\n"
    )


@pytest.mark.parametrize("page", ["README.md", "library.md"])
def test_python_code_runs(page, tmp_path, monkeypatch):
    """Run the Python blocks of a page in order with a small network, and check what its comments state."""
    shutil.copytree(SAMPLES, tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XPLAIN_DEVICE", "cpu")
    blocks = re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL)
    names: dict = {}
    exec("\n".join(blocks).replace("efficientnet-lite0", TOY[1]), names)
    explanation = names["explanation"]
    assert 0 < explanation.probability <= 1
    assert explanation.values.ndim == 3
    assert {row["method"] for row in names["result"].summary()["rows"]} == {"integrated-gradients", "neflag", "random"}
    if page == "library.md":
        side = 32
        assert names["x"].shape == names["att"].values.shape == (1, 3, side, side)
        assert names["att"].target.shape == names["att"].gap.shape == (1,)
        assert 0 < float(names["att"].gap.abs()) < 0.1 * float(names["att"].expected.abs())
        assert names["att"].cost.rows > 10
        assert names["score"].values.shape == (1,)
        assert names["score"].curve.shape == (1, side + 1)


def test_own_model_guide(xp, tmp_path, monkeypatch):
    """Run the script of the guide, then its commands."""
    (script,), (shell,) = (
        re.findall(f"```{kind}\n(.*?)```", TEXTS["own-model.md"], re.DOTALL) for kind in ("python", "sh")
    )
    (tmp_path / "my_digits.py").write_text(script, "utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    train, explain, evaluate, fits = shell.splitlines()
    assert train == "python my_digits.py"
    runpy.run_path("my_digits.py", run_name="__main__")
    count = len(list(tmp_path.glob("digits/test/seven/*.png")))
    note = "xplain: note: the model has one input channel; images are converted to grayscale\n"
    ran = xp(*shlex.split(explain)[1:], "--json", "--device", "cpu")
    assert (ran.code, len(ran.records)) == (0, 2 * count)
    assert ran.err.startswith(note)
    assert sum(record["target"]["name"] == "seven" for record in ran.records) > 1.5 * count
    ran = xp(*shlex.split(evaluate)[1:], "--device", "cpu", "-o", "run")
    assert ran.code == 0, ran.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["top1"] > 0.7
    ran = xp(*shlex.split(fits)[1:], "--device", "cpu", "--json")
    refused = {record["name"] for record in ran.records if record["fits"] == "no"}
    assert refused == {"attention-rollout", "attention-relevance", "legrad", "grad-eclip"}
