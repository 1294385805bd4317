"""What the README promises is what the code does."""

from __future__ import annotations

import re
import shlex
import shutil

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


def _recipes() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("xplain explain") and "|" not in line]


@pytest.mark.parametrize("command", _recipes())
def test_recipes_are_accepted(command, xp, tmp_path):
    """Each ``xplain explain`` line runs on the samples, but for what needs a download or a GPU."""
    if "resnet" in command or "cuda" in command:
        pytest.skip("needs weights that are not here, or a GPU")
    shutil.copytree(SAMPLES, tmp_path / "samples")
    shutil.copytree(SAMPLES, tmp_path / "photos" / "n02123159")
    (tmp_path / "photos" / "n02123159" / "astronaut.jpg").unlink()
    quick = ("-m", "python:tests.factories:imagenet_like", "--device", "cpu")
    ran = xp(*shlex.split(command)[1:], *quick)
    assert ran.code == 0, ran.err
    assert ran.lines
