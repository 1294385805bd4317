"""Fixtures that many tests use: the command line in this process, and the sample photographs."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # small networks gain nothing from threads, and threads do not survive a fork

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
TINY = ("-m", "python:tests.helpers.factories:tiny", "--device", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that fork first and those that convert networks to OpenVINO last.

    A fork of a process that has converted a gradient crashes when it gets a signal.
    """
    modules = {item: getattr(item, "module", None) for item in items}
    items.sort(key=lambda item: hasattr(modules[item], "needs_openvino") - hasattr(modules[item], "needs_fork"))


@dataclass(frozen=True)
class Ran:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture(scope="session", autouse=True)
def messages_as_written():
    """Keep messages as the code has them: with options. Tests of the library's words use ``option_names(False)``."""
    from xplain.core.option_words import option_names

    with option_names():
        yield


@pytest.fixture(scope="session", autouse=True)
def stated_input():
    """Do not note that small networks state no normalization and size. ``tests/models/test_assumed_input.py`` tests these notes."""
    from xplain.models import assumed_input

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assumed_input, "emit_note", lambda text: None)
        yield


@pytest.fixture
def xp(capsys, monkeypatch, tmp_path):
    """Return a function that runs ``xplain`` with arguments, in a new folder and without the user's environment."""
    import torch

    from xplain.cli.app import run

    # OpenMP threads do not survive a fork, and other tests in this process fork
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    for name in [name for name in os.environ if name.startswith("XPLAIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@dataclass
class MethodCalls:
    """Runs of methods. sizes: number of images of each run. before: functions to call before a run, by its number from 1."""

    sizes: list[int] = field(default_factory=list)
    before: dict[int, Callable[[], object]] = field(default_factory=dict)


@pytest.fixture
def method_calls(monkeypatch) -> MethodCalls:
    """Record the runs of methods from now on."""
    from xplain.pipelines.method_run import MethodRun

    calls, attribute = MethodCalls(), MethodRun.attribute

    def recorded(method, classifier, images, *arguments, **options):
        calls.sizes.append(len(images))
        calls.before.get(len(calls.sizes), lambda: None)()
        return attribute(method, classifier, images, *arguments, **options)

    monkeypatch.setattr(MethodRun, "attribute", recorded)
    return calls


def interrupt() -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of class folders: cat/a.jpg, espresso/b.jpg, rocket/c.jpg."""
    folder = tmp_path / "photos"
    for label, name in (("cat", "a"), ("espresso", "b"), ("rocket", "c")):
        (folder / label).mkdir(parents=True)
        shutil.copy(SAMPLES / f"{label}.jpg", folder / label / f"{name}.jpg")
    return folder
