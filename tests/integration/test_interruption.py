"""Commands that are interrupted by a signal or a closed pipe: files are complete, and the same command resumes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY, interrupt
from tests.helpers.commands import COMMANDS, OPTIONS, check_files, needs_fork, read_messages, read_results, single_line
from tests.helpers.processes import is_running, start, wait

pytestmark = pytest.mark.usefixtures("fast_commands")


@needs_fork
@pytest.mark.parametrize("command", COMMANDS)
def test_signals_leave_resumable_files(xp, noise, command):
    command_line = [command, str(noise), *TINY, *OPTIONS[command]]
    started = time.monotonic()
    assert wait(start([*command_line, "-o", "whole"])) == 0
    seconds = time.monotonic() - started
    draw, codes = random.Random(command), []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) * 2:
        child = start([*command_line, "-o", "run"], err=Path("err"))
        time.sleep(draw.uniform(0, 0.8 * seconds))
        os.kill(child, number)
        code = wait(child)
        codes.append(code)
        if code not in (0, -signal.SIGKILL):
            assert code == 130
            err = Path("err").read_text()  # empty if the signal came before the command line was imported
            assert not err or "results are kept. To resume, run: xplain" in single_line(err)
        check_files(Path("run"))
    assert 130 in codes or -signal.SIGKILL in codes
    assert xp(*command_line, "-o", "run").code == 0
    assert check_files(Path("run")) == check_files(Path("whole"))
    assert read_results(command, Path("run")) == read_results(command, Path("whole"))


@needs_fork
@pytest.mark.parametrize("change", ["labels", "images"])
def test_changed_input_after_kill_is_never_mixed(xp, tmp_path, change):
    """Killed at any time, a run whose labels or images change is refused, or equals a run on the changed ones alone."""
    rng = np.random.default_rng(4)
    names = [f"{i:02}.png" for i in range(12)]

    def write(name: str) -> None:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "flat" / name)

    def label(name: str, text: str) -> None:
        Path("l.csv").write_text("".join(f"{other},{text if other == name else 'cat'}\n" for other in names))

    (tmp_path / "flat").mkdir()
    command = [
        "evaluate",
        str(tmp_path / "flat"),
        *TINY,
        *OPTIONS["evaluate"],
        "--labels",
        "l.csv",
        "--target",
        "label",
    ]
    codes = set()
    for number, place in enumerate((0, 3, 6, 9, 11)):
        for name in names:
            write(name)
        label("", "cat")
        run, fresh = f"run {number}", f"fresh {number}"
        child = start([*command, "-o", run])
        wanted = Path(run, "items", "0.jsonl")
        while not wanted.exists() or wanted.read_bytes().count(b"item") < 5:
            assert is_running(child)
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        wait(child)
        stored = {record["key"] for record in map(json.loads, wanted.read_bytes().split(b"\n")[:-1])}
        if change == "labels":
            label(names[place], "rocket")
        else:
            write(names[place])
        code = xp(*command, "-o", run).code
        assert code == (2 if names[place] in stored else 0)
        codes.add(code)
        if code == 0:
            assert xp(*command, "-o", fresh).code == 0
            assert read_results("evaluate", Path(run)) == read_results("evaluate", Path(fresh))
    assert 2 in codes


def test_compare_resumes_interrupted_comparison(xp, noise, method_calls):
    command_line = ("compare", noise, *TINY, *OPTIONS["compare"], "-o", "run")
    method_calls.before[4] = interrupt
    ran = xp(*command_line)
    assert ran.code == 130
    assert "interrupted; 4 of 12 results are kept" in ran.err
    assert len(list(Path("run/compare.part").glob("*.npz"))) == 4
    assert xp(*command_line).code == 0
    interrupted, resumed = [2, 1, 1, 2], [2, 1, 1, 2, 1, 1]  # the fourth is repeated, those before it were saved
    assert method_calls.sizes == interrupted + resumed
    assert not Path("run/compare.part").exists()


def test_compare_resumes_interrupted_writing(xp, noise, monkeypatch):
    from xplain.reports import comparison_files as files

    write_file, names = files.write_file, []

    def interrupt_at_page(path, content):
        names.append(path.name)
        if path.suffix == ".html":
            interrupt()
        return write_file(path, content)

    command_line = ("compare", noise, *TINY, *OPTIONS["compare"], "-o", "run")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", interrupt_at_page)
        assert xp(*command_line).code == 130
    assert names == ["compare.png", "agreement.png", "compare.html"]
    assert xp(*command_line, "--sign", "signed").code == 2  # another comparison may not replace them
    monkeypatch.setattr(
        "xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    assert xp(*command_line).code == 0


def test_compare_removes_rest_of_interrupted_cleanup(xp, noise, monkeypatch):
    """The folder of finished cells is deleted last, and its description before them."""
    from xplain.reports import comparison_files as files

    def interrupt_cleanup(folder, ignore_errors):
        (folder / "about.json").unlink()
        interrupt()

    command_line = ("compare", noise, *TINY, *OPTIONS["compare"], "-o", "run")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", interrupt_cleanup)
        assert xp(*command_line).code == 130
    assert list(Path("run/compare.part").iterdir())
    assert xp(*command_line).code == 0
    assert not Path("run/compare.part").exists()


def test_bench_resumes_interrupted_run(xp, monkeypatch):
    from xplain.pipelines import model_benchmark

    time_interleaved, sizes = model_benchmark.time_interleaved, []

    def interrupt_third_call(candidates, *rest):
        sizes.append(candidates[-1].images)
        if len(sizes) == 3:
            interrupt()
        return time_interleaved(candidates, *rest)

    monkeypatch.setattr(model_benchmark, "time_interleaved", interrupt_third_call)
    command_line = ("bench", *TINY, *OPTIONS["bench"], "-o", "run")
    assert xp(*command_line).code == 130
    first = json.loads(Path("run/bench.part.json").read_text())["groups"]
    assert [group[0]["kind"] for group in first] == ["environment", "ceiling", "run", "run"]
    assert check_files(Path("run")) == {"bench.part.json", "bench.json", "bench.md"}
    assert xp(*command_line).code == 0
    assert sizes == [1, 2, 1, 1, 2]  # the third was interrupted, and repeated
    records = json.loads(Path("run/bench.json").read_text())["records"]
    assert records[2:4] == [group[0] for group in first[2:]]
    assert [(r["label"], r["images"]) for r in records[2:]] == [
        ("saliency", 1), ("saliency", 2), ("smoothgrad:samples=3", 1), ("smoothgrad:samples=3", 2),
    ]  # fmt: skip
    sizes.clear()
    content = Path("run/bench.json").read_bytes()
    ran = xp(*command_line, "--seed", "1")
    assert (ran.code, sizes, Path("run/bench.json").read_bytes()) == (2, [], content)
    assert "'run' contains a benchmark with different seed: the default instead of 1; use the same settings" in ran.err
    assert xp(*command_line).code == 130  # measured anew
    assert sizes == [1, 2, 1]


def test_bench_interrupted_twice_keeps_results(xp, monkeypatch):
    from xplain.pipelines import model_benchmark, throughput

    time_interleaved, find_best_batch_size = model_benchmark.time_interleaved, throughput.find_best_batch_size
    calls = []

    def interrupted(function, number):
        """Return the function, interrupted in a call by its number from 1; 0 for none."""

        def call(*arguments):
            calls.append(1)
            if len(calls) == number:
                interrupt()
            return function(*arguments)

        calls.clear()
        return call

    command_line = ("bench", *TINY, *OPTIONS["bench"], "-o", "run")
    with monkeypatch.context() as patch:
        patch.setattr(model_benchmark, "time_interleaved", interrupted(time_interleaved, 4))
        assert xp(*command_line).code == 130
    saved = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert len(json.loads(saved["bench.part.json"])["groups"]) == 5  # environment, ceiling, three runs
    for number in (1, 4):  # the four ceilings of the plain model are measured again: the first and the last of them
        with monkeypatch.context() as patch:
            patch.setattr(throughput, "find_best_batch_size", interrupted(find_best_batch_size, number))
            assert xp(*command_line).code == 130
        assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == saved
    with monkeypatch.context() as patch:
        patch.setattr(model_benchmark, "time_interleaved", interrupted(time_interleaved, 0))
        assert xp(*command_line).code == 0
    assert len(calls) == 1  # the missing one
    records = json.loads(Path("run/bench.json").read_text())["records"]
    assert records[2:5] == [group[0] for group in json.loads(saved["bench.part.json"])["groups"][2:]]
    assert not Path("run/bench.part.json").exists()


def test_bench_without_output_names_option(xp, monkeypatch):
    monkeypatch.setattr("xplain.pipelines.model_benchmark.time_interleaved", lambda *_: interrupt())
    ran = xp("bench", *TINY, *OPTIONS["bench"])
    assert ran.code == 130
    assert single_line(ran.err) == (
        "xplain: error: interrupted before any results were saved; use --output to make the benchmark resumable"
    )


@needs_fork
@pytest.mark.parametrize("command", [*COMMANDS, "list"])
def test_broken_pipe_stops_remaining_work(xp, noise, command):
    reading, writing = os.pipe()
    os.close(reading)
    command_line = ["list", "methods"]
    if command != "list":
        command_line = [command, str(noise), *TINY, *OPTIONS[command], "-o", "run", "--json"]
    code = wait(start(command_line, out=writing, err=Path("err")))
    os.close(writing)
    err = Path("err").read_text()
    if command in ("explain", "bench"):  # they print results at once, and stop
        assert code == 130
        assert re.search(r"interrupted; .* results are kept\. To resume", single_line(err))
        assert 0 < len(check_files(Path("run"))) < 24
        assert xp(*command_line).code == 0
    else:
        assert (code, read_messages(err)) == (0, [])
    if command == "evaluate":
        assert {"summary.json", "report.html"} <= check_files(Path("run"))
