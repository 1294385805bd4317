"""The command as a whole: help and version without torch, imports of the default run, signals and broken pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import xplain
from tests.conftest import ROOT, SAMPLES

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "skimage", "scipy")


def python(code: str, *arguments: str, cwd=ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["list", "--help"], ["--version"]])
def test_help_imports_no_heavy_module(arguments):
    code = f"import sys; from xplain.cli.app import run; c = run({arguments!r}); print([m for m in {HEAVY!r} if m in sys.modules], c)"
    assert python(code).stdout.splitlines()[-1] == "[] 0"


def test_import_xplain_without_torch():
    assert python("import sys, xplain; dir(xplain); print('torch' in sys.modules)").stdout == "False\n"


def test_default_run_imports_no_extras(tmp_path):
    code = (
        "import sys; from xplain.cli.app import run; c = run(sys.argv[1:]);"
        "print([m for m in ('torchvision', 'timm', 'skimage', 'scipy', 'matplotlib.pyplot', 'rich') if m in sys.modules], c)"
    )
    ran = python(code, "explain", str(SAMPLES / "cat.jpg"), "-a", "saliency", "--device", "cpu", cwd=tmp_path)
    assert ran.stdout.splitlines() == ["xplain-out/cat.saliency.overlay.png", "[] 0"], ran.stderr


def test_version_is_printed(xp):
    assert xp("--version").out == f"xplain {xplain.__version__}\n"
    assert xp("explain", "--version").out == f"xplain {xplain.__version__}\n"


def test_unknown_command_is_usage_error(xp):
    assert xp("explane").code == 2
    ran = xp("list", "methos")
    assert ran.code == 2
    assert ran.err.count("\n") == 1


def test_no_arguments_show_help(xp):
    ran = xp()
    assert ran.code == 2
    assert "explain" in ran.out + ran.err


def test_bug_prints_traceback(xp, monkeypatch):
    monkeypatch.setattr("xplain.pipelines.explain.find_images", lambda *_: 1 / 0)
    ran = xp("explain", SAMPLES / "cat.jpg")
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.err


def test_broken_pipe_is_no_error():
    command = f"{sys.executable} -m xplain list classes | head -1"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "0\tn01440764\ttench\n"


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_no_error(closed):
    command = f"exec {sys.executable} -m xplain --version {closed}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == ("" if "1>" in closed else f"xplain {xplain.__version__}\n")


def test_closed_stderr_keeps_exit_code():
    command = f"set -o pipefail; {sys.executable} -m xplain explain --nothing 2>&1 >&- | true"
    assert subprocess.run(["bash", "-c", command], capture_output=True, cwd=ROOT, check=False).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_early_signal_exits_silently(number):
    """The first import sends the signal."""
    code = (
        "import os, sys, signal; sys.argv = ['xplain', 'list', 'methods']; import xplain.__main__ as entry\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore SIGINT
        "class Sender:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'xplain.cli': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Sender()); entry.main()"
    )
    ran = python(code)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_system_exit_is_passed_on(xp, monkeypatch):
    monkeypatch.setattr("xplain.pipelines.explain.find_images", lambda *_: sys.exit(7))
    with pytest.raises(SystemExit, match="7"):
        xp("explain", SAMPLES / "cat.jpg")


def test_interrupt_hidden_by_other_error(xp, monkeypatch):
    """As libraries that are interrupted during their import do."""

    def interrupted(*_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half of it") from None

    monkeypatch.setattr("xplain.pipelines.explain.find_images", interrupted)
    ran = xp("explain", SAMPLES / "cat.jpg")
    assert (ran.code, ran.err.count("\n")) == (130, 1)


def test_rank_variable_is_checked(xp, monkeypatch):
    monkeypatch.setenv("RANK", "x")
    ran = xp("evaluate", SAMPLES)
    assert (ran.code, ran.err) == (2, "xplain: error: invalid shard 'x/1'; use I/N with 0 <= I < N\n")


def test_messages_escape_control_characters(xp):
    ran = xp("explain", "a\x1b[31m\nb.jpg", "-m", "python:tests.helpers.factories:tiny")
    assert ran.code == 3
    assert "\x1b" not in ran.err
    assert ran.err.count("\n") == 1


def test_import_keeps_environment():
    before = dict(os.environ)
    import xplain.cli.app

    assert xplain.cli.app.app is not None
    assert dict(os.environ) == before
