"""What the README promises is what the code does."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, SAMPLES
from tests.readme import PICTURE, README, fill

TEXT = README.read_text("utf-8")


def test_tables_are_made_from_the_registry():
    assert fill(TEXT) == TEXT, "run make readme"


def test_links_to_files_of_the_project_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    assert PICTURE.exists()


def test_the_test_command_is_what_ci_runs():
    command = next(line for line in TEXT.splitlines() if line.endswith("-m pytest"))
    script = (ROOT / ".ci" / "run").read_text().replace(" -q -e", " -e")
    assert command in script


RUN_HERE = ("xplain explain", "xplain compare samples")


def _recipes() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    here = [line for line in lines if line.startswith(RUN_HERE) and not re.search(r"\||my_digits", line)]
    return [line.split("  #")[0].strip() for line in here]


@pytest.mark.parametrize("command", _recipes())
def test_recipes_are_accepted(command, xp, tmp_path):
    """Each ``xplain explain`` and ``compare`` line runs on the samples, but for what needs a download or a GPU."""
    if "resnet" in command or "cuda" in command:
        pytest.skip("needs weights that are not here, or a GPU")
    shutil.copytree(SAMPLES, tmp_path / "samples")
    shutil.copytree(SAMPLES, tmp_path / "photos" / "n02123159")
    (tmp_path / "photos" / "n02123159" / "astronaut.jpg").unlink()
    quick = ("-m", "python:tests.factories:imagenet_like", "--device", "cpu")
    ran = xp(*shlex.split(command)[1:], *quick)
    assert ran.code == 0, ran.err
    assert ran.lines


def test_a_new_method_in_ten_lines(tmp_path):
    """The section, followed literally in a copy of the package."""
    module, line = re.findall(r"```python\n(.*?)```", TEXT[TEXT.index("### A new method") :], re.DOTALL)[:2]
    shutil.copytree(ROOT / "xplain", tmp_path / "xplain", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "xplain" / "methods" / "gradient_share.py").write_text(module, "utf-8")
    with (tmp_path / "xplain" / "methods" / "__init__.py").open("a") as stream:
        stream.write(line)
    check = """
import torch, xplain
from tests import toys
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
    assert ran.stdout.startswith("gradient-share\tgs\tpower=1.0")


def test_your_own_model(xp, tmp_path, monkeypatch):
    """The section, followed to the letter: its script, then its commands."""
    section = TEXT[TEXT.index("## Your own model") : TEXT.index("## Library")]
    (script,), (shell,) = (re.findall(f"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "sh"))
    (tmp_path / "my_digits.py").write_text(script, "utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    train, explain, evaluate, fits = shell.splitlines()
    assert train == "python my_digits.py"
    runpy.run_path("my_digits.py", run_name="__main__")
    count = len(list(tmp_path.glob("digits/test/seven/*.png")))
    note = "xplain: note: the model takes one channel: it is given the grey value of the pixels\n"
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
    assert refused == {"attention-rollout", "attention-relevance"}
