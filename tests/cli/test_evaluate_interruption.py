"""``xplain evaluate`` that is killed, stopped, sharded or out of disk space: the final summary equals an uninterrupted run's."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY
from tests.helpers.commands import needs_fork
from tests.helpers.processes import is_running, start, wait

OPTIONS = (
    "-M",
    "insertion:steps=6",
    "-M",
    "error-rate",
    "-a",
    "sm",
    "-a",
    "sg:samples=3",
    "-a",
    "ig:steps=4",
    "--save-maps",
)
REPORTS = ("summary.json", "summary.csv", "summary.md", "report.html")


@pytest.fixture
def noise(tmp_path) -> Path:
    """Fourteen small images in class folders, and two files that are not images."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "noise"
    for i in range(14):
        place = folder / ("cat", "espresso", "rocket")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    for name in ("cat/1bad.png", "rocket/20.png"):
        (folder / name).write_bytes(b"nonsense")
    return folder


def reports(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in REPORTS}


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder, "maps").glob("*.npz")}


def written(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder, "items").glob("*.jsonl"))


@needs_fork
def test_killed_run_equals_uninterrupted_run(xp, noise):
    command = ["evaluate", str(noise), *TINY, *OPTIONS, "-b", "3"]
    assert xp(*command, "-o", "whole").code == 5
    size, chance = written("whole"), random.Random(7)
    killed = 0
    for share in sorted(chance.uniform(0, 1) for _ in range(10)):
        child = start([*command, "-o", "run"])
        while is_running(child):
            if Path("run/items/0.jsonl").exists() and written("run") >= share * size:
                time.sleep(chance.uniform(0, 0.02))  # into the computation, a write, or the next group
                os.kill(child, signal.SIGKILL)
                killed += wait(child) == -signal.SIGKILL
                break
            time.sleep(0.001)
    assert killed == 10
    assert xp(*command, "-o", "run").code == 5
    assert written("run") >= size - 200 * 14  # seconds are written with more or fewer digits
    assert reports("run") == reports("whole")
    assert names("run") == names("whole")


def test_shard_continues_as_whole_run(xp, noise):
    command = (
        "evaluate",
        noise,
        *TINY,
        *OPTIONS,
        "-b",
        "1",
    )  # shards group the images differently: one image per call, for the same bits
    xp(*command, "-o", "whole")
    ran = xp(*command, "-o", "run", "--shard", "1/2", "--json")
    assert ran.records[0]["items"] == {"evaluated": 7, "failed": 1, "of": 16}
    assert xp(*command, "-o", "run").code == 5
    assert sorted(path.name for path in Path("run/items").iterdir()) == ["0.jsonl", "1.jsonl"]
    assert reports("run") == reports("whole")


def test_summary_counts_failures_of_shards(xp, noise):
    command = ("evaluate", noise, *TINY, "-M", "deletion:steps=2", "-a", "sm", "-o", "run", "--json")
    xp(*command, "--shard", "0/2")
    ran = xp(*command, "--shard", "1/2")
    assert ran.records[0]["items"] == {"evaluated": 14, "failed": 2, "of": 16}


def test_repaired_image_is_evaluated(xp, noise):
    command = ("evaluate", noise, *TINY, "-M", "deletion:steps=2", "-a", "sm", "-o", "run", "--json")
    assert xp(*command).records[0]["items"]["failed"] == 2
    for name in ("cat/1bad.png", "rocket/20.png"):
        (noise / name).write_bytes((noise / "cat" / "0.png").read_bytes())
    ran = xp(*command)
    assert ran.code == 0
    assert ran.records[0]["items"] == {"evaluated": 16, "failed": 0, "of": 16}


@pytest.mark.parametrize("room", [400, 3000, 9000])
def test_full_disk_run_is_resumed(xp, noise, room):
    command = ("evaluate", noise, *TINY, *OPTIONS[:-1], "-b", "3")
    xp(*command, "-o", "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    Path("run/items").mkdir(parents=True)
    Path("run/run.json").write_bytes(Path("whole/run.json").read_bytes())
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(room, Path("run/run.json").stat().st_size), limits[1]))
    try:
        ran = xp(*command, "-o", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ran.code == 3
    (line,) = [line for line in ran.err.splitlines() if "nonsense" not in line and "not an image" not in line]
    assert line.startswith("xplain: error: cannot write 'run/items/0.jsonl': ")
    assert line.endswith("; free disk space, then run the same command again to resume")
    assert xp(*command, "-o", "run").code == 5
    assert reports("run") == reports("whole")


def test_locked_shard_is_rejected(xp, noise):
    from xplain.core.run_store import RunStore

    command = ("evaluate", noise, *TINY, "-M", "deletion:steps=2", "-a", "sm", "-o", "run")
    xp(*command)
    description = {"fingerprint": json.loads(Path("run/run.json").read_text())["fingerprint"]}
    with RunStore.open(Path("run"), 0, description | {"methods": {}, "metrics": {}}):
        ran = xp(*command)
        assert (ran.code, ran.out) == (3, "")
        assert ran.err == (
            "xplain: error: another process is writing to 'run/items/0.jsonl'; wait for it to finish or use another --shard or --output\n"
        )
        assert xp(*command, "--shard", "1/2").code == 5
