"""What is handed out: a source archive that builds the same wheel as the tree, and a wheel that holds all it needs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import xplain
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def build(kind: str, tree: Path, output: Path) -> Path:
    """Build a wheel or an sdist of a tree by its backend, as pip does, but with the backend that is installed."""
    code = f"import sys; from hatchling.build import build_{kind} as build; print(build(sys.argv[1]))"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(output)], capture_output=True, text=True, cwd=tree, check=True
    )
    return output / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", unpacked, tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    package = [path for path in (ROOT / "xplain").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {path.relative_to(ROOT).as_posix() for path in package}
    assert {"xplain/py.typed", "xplain/data/imagenet1k.tsv", "xplain/reports/pages/comparison.html"} <= inside


def test_the_archive_builds_the_same_wheel_as_the_tree(wheel, tmp_path):
    here = zipfile.ZipFile(build("wheel", ROOT, tmp_path))
    assert here.namelist() == wheel.namelist()
    assert all(here.read(name) == wheel.read(name) for name in here.namelist())


def test_the_archive_holds_tests_samples_and_papers_tables(unpacked):
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode:
        pytest.skip("not in a git repository")
    kept = [name for name in listed.stdout.splitlines() if not name.startswith(".") and (ROOT / name).exists()]
    assert {"tests/conftest.py", "samples/cat.jpg", "samples/.readme/cat.methods.jpg", "Makefile"} <= set(kept)
    assert [name for name in kept if not (unpacked / name).exists()] == []


def test_what_the_wheel_says_of_itself(wheel):
    folder = f"xplain_vision-{xplain.__version__}.dist-info"
    lines = wheel.read(f"{folder}/METADATA").decode().splitlines()
    assert f"Version: {xplain.__version__}" in lines
    required = {
        line.removeprefix("Requires-Dist: ")
        for line in lines
        if line.startswith("Requires-Dist") and "extra" not in line
    }
    assert {_plain(each) for each in required} == {_plain(each) for each in PROJECT["dependencies"]}
    assert "xplain = xplain.__main__:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def _plain(requirement: str) -> tuple[str, frozenset[str]]:
    """A requirement's name and its set of bounds."""
    at = next(i for i, letter in enumerate(requirement) if letter in "<>=")
    return requirement[:at].strip(), frozenset(requirement[at:].split(","))


def test_the_changelog_tells_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\n## [{xplain.__version__}] - 20" in text
