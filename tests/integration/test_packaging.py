"""The source archive builds the same wheel as the repository, and the wheel is complete."""

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
    """Build a wheel or an sdist of a source tree with the installed backend, and return its path."""
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


def test_wheel_contains_exactly_the_package(wheel):
    package = [path for path in (ROOT / "xplain").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in package}
    assert {"xplain/py.typed", "xplain/data/imagenet1k.tsv", "xplain/reports/pages/comparison.html"} <= packed


def test_archive_builds_same_wheel(wheel, tmp_path):
    direct = zipfile.ZipFile(build("wheel", ROOT, tmp_path))
    assert direct.namelist() == wheel.namelist()
    assert all(direct.read(name) == wheel.read(name) for name in direct.namelist())


def test_archive_contains_tests_and_samples(unpacked):
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode:
        pytest.skip("not in a git repository")
    tracked = [name for name in listed.stdout.splitlines() if not name.startswith(".") and (ROOT / name).exists()]
    assert {"tests/conftest.py", "samples/cat.jpg", "samples/.readme/cat.methods.jpg", "Makefile"} <= set(tracked)
    assert [name for name in tracked if not (unpacked / name).exists()] == []


def test_wheel_metadata(wheel):
    folder = f"xplain_vision-{xplain.__version__}.dist-info"
    lines = wheel.read(f"{folder}/METADATA").decode().splitlines()
    assert f"Version: {xplain.__version__}" in lines
    required = {
        line.removeprefix("Requires-Dist: ")
        for line in lines
        if line.startswith("Requires-Dist") and "extra" not in line
    }
    assert {parse_requirement(text) for text in required} == {
        parse_requirement(text) for text in PROJECT["dependencies"]
    }
    assert "xplain = xplain.__main__:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def parse_requirement(requirement: str) -> tuple[str, frozenset[str]]:
    """Return a requirement's name and its version bounds."""
    end = next(i for i, character in enumerate(requirement) if character in "<>=")
    return requirement[:end].strip(), frozenset(requirement[end:].split(","))


def test_changelog_has_current_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\n## [{xplain.__version__}] - 20" in text
