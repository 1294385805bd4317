"""Several processes that write into the same directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.helpers.commands import OPTIONS, needs_fork, single_line
from tests.helpers.processes import is_running, start, wait
from xplain.core.config import Choice, ExplainConfig
from xplain.core.files import lock_directory
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.reports.render import read_record

pytestmark = pytest.mark.usefixtures("fast_commands")


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_locked_directory_is_rejected(xp, noise, command):
    command_line = (command, noise, *TINY, *OPTIONS[command], "-o", "run")
    with lock_directory(Path("run")):
        ran = xp(*command_line)
    assert (ran.code, ran.out) == (3, "")
    assert single_line(ran.err) == (
        "xplain: error: another process is writing to 'run'; wait for it to finish or use another --output"
    )
    assert xp(*command_line).code == 0


def test_explain_keeps_files_of_other_process(xp, noise, method_calls):
    import xplain.pipelines.explain as pipeline

    model = ModelOptions("python:tests.helpers.factories:tiny", device="cpu")
    compute = ComputeOptions(seed=1, batch_size=1)
    other = ExplainConfig(model, compute, (str(noise),), (Choice("sm"),), Path("run"), overwrite=True)

    def write_between():
        assert len(list(pipeline.explain(other))) == 6

    method_calls.before[2] = write_between
    ran = xp("explain", noise, *TINY, "-a", "sm", "-o", "run", "-b", "1")
    assert ran.code == 3
    assert "already exists with different settings; use --overwrite or another --output" in single_line(ran.err)
    seeds = [read_record(path)["seed"] for path in Path("run").rglob("*.png")]
    assert seeds.count(1) == 6


@pytest.mark.parametrize("kinds", [("overlay",), ("raw", "overlay", "heatmap")])
def test_explain_keeps_files_of_same_command(xp, noise, method_calls, kinds):
    """Another process of the same command finishes after this one has seen that no file exists."""
    import xplain.pipelines.explain as pipeline

    model = ModelOptions("python:tests.helpers.factories:tiny", device="cpu")
    compute = ComputeOptions(batch_size=1)
    other = ExplainConfig(model, compute, (str(noise),), (Choice("sm"),), Path("run"), saves=kinds)
    written = {}

    def write_between():
        assert len(list(pipeline.explain(other))) == 6
        written.update({path: path.read_bytes() for path in Path("run").rglob("*.*")})

    method_calls.before[1] = write_between
    saves = [part for kind in kinds for part in ("--save", kind)]
    ran = xp("explain", noise, *TINY, "-a", "sm", "-o", "run", "-b", "1", *saves)
    assert (ran.code, len(ran.lines)) == (0, 6 * len(kinds))
    assert {path: path.read_bytes() for path in Path("run").rglob("*.*")} == written


@needs_fork
def test_shards_write_reports_in_turn(xp, noise):
    command_line = ["evaluate", str(noise), *TINY, "-a", "sm", "-M", "deletion:steps=2", "-o", "run"]
    assert xp(*command_line, "--shard", "0/2").code == 0
    Path("run/summary.json").unlink()
    code = "import sys; from pathlib import Path; from xplain.core.files import lock_directory\n"
    code += "with lock_directory(Path('run')): print(flush=True), sys.stdin.read()"
    other = subprocess.Popen(  # a forked process would share the lock
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    other.stdout.readline()
    child = start([*command_line, "--shard", "1/2"])
    items = Path("run/items/1.jsonl")
    while (
        not items.exists() or len(items.read_text().splitlines()) < 9
    ):  # one item and two values for each of three images
        assert is_running(child)
        time.sleep(0.01)
    time.sleep(0.2)
    assert is_running(child)
    assert not Path("run/summary.json").exists()
    other.kill()
    other.communicate()
    assert wait(child) == 0
    assert json.loads(Path("run/summary.json").read_text())["items"]["evaluated"] == 6
