"""Files for contributors and releases: they are valid, and name commands, tools and folders that exist."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest

from tests.conftest import ROOT
from xplain.data.own_outputs import DEFAULT_OUTPUTS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TARGETS = set(re.findall(r"^(\w+)(?: \w+)*:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)) | {"newest"}


def read_yaml(name: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def test_citation_agrees_with_the_project():
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert set(citation) >= {"title", "message", "authors", "type"}
    assert citation["license"] == PROJECT["license"]


def test_make_targets_exist():
    texts = [(ROOT / name).read_text("utf-8") for name in (".github/CONTRIBUTING.md", ".pre-commit-config.yaml")]
    texts += [path.read_text("utf-8") for path in (ROOT / ".github/workflows").glob("*.yml")]
    named = {target for text in texts for target in re.findall(r"(?:`|run: |entry: )make (\w+)", text)}
    assert {"check", "dist", "layers", "types"} <= named
    assert named - TARGETS == set()


def test_contributing_names_existing_files():
    text = (ROOT / ".github/CONTRIBUTING.md").read_text("utf-8")
    names = set(re.findall(r"`((?:xplain|tests)/[\w./]+)`", text))
    assert len(names) >= 4
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_release_publishes_what_was_checked():
    release = read_yaml(".github/workflows/release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key "on" as a boolean
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert any("twine check --strict" in step.get("run", "") for step in build["steps"])
    assert (publish["needs"], publish["permissions"]) == ("build", {"id-token": "write"})
    wheel = next(step["run"] for step in build["steps"] if "GITHUB_REF_NAME" in step.get("run", ""))
    assert PROJECT["name"].replace("-", "_") in wheel


def test_issue_forms_are_complete():
    for name in ("bug", "method"):
        form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
        assert set(form) >= {"name", "description", "body"}
        assert len({part["id"] for part in form["body"]}) == len(form["body"])


def test_default_output_folders_are_ignored():
    names = [f"{name}/x.png" for name in (*DEFAULT_OUTPUTS, "xplain-compare-runs", "xplain-compare-0a1b2c3d")]
    ran = subprocess.run(["git", "check-ignore", *names], capture_output=True, text=True, cwd=ROOT, check=False)
    if ran.returncode == 128:
        pytest.skip("not in a git repository")
    assert ran.stdout.split() == names
