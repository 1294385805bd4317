"""What goes wrong outside: signals, memory, disks, devices, readers that leave. Nothing finished is lost, nothing is half written.

``evaluate`` has more of these in ``test_evaluate_breaks``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT, TINY, interrupt
from tests.helpers.factories import Frail
from tests.helpers.processes import start, wait
from xplain.core.config import Choice, ComputeOptions, ExplainConfig, ModelOptions
from xplain.core.files import lock_directory
from xplain.reports.render import read_record

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
FRAIL = ("-m", "python:tests.helpers.factories:frail", "--device", "cpu")
METHODS = ("-a", "sm", "-a", "sg:samples=3", "-b", "2")
ASK = {  # what each command is asked besides its images and its model
    "explain": (*METHODS, "--save", "overlay", "--save", "raw"),
    "evaluate": (*METHODS, "-M", "deletion:steps=3", "--save-maps"),
    "compare": (*METHODS, "-M", "deletion:steps=3"),
    "bench": (*METHODS, "--images", "2", "--repeats", "1", "--no-progress"),
}
COMMANDS = list(ASK)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small figures, and a short bare model in bench."""
    from xplain.pipelines import model_benchmark
    from xplain.pipelines import throughput as ceiling
    from xplain.reports import figures as pen

    plain = pen.save_figure
    for module in ("comparison_figure", "agreement"):
        monkeypatch.setattr(f"xplain.reports.{module}.save_figure", lambda figure, form: plain(Small(figure), form))
    monkeypatch.setattr(ceiling, "CPU_SIZES", (1, 2))
    monkeypatch.setattr(model_benchmark, "MIN_SECONDS", 0.001)


class Small:
    """A figure that is saved with few dots."""

    def __init__(self, figure):
        self.figure = figure

    def savefig(self, stream, *, dpi, **options):
        self.figure.savefig(stream, dpi=20, **options)


@pytest.fixture
def noise(tmp_path) -> Path:
    """Six small images in class folders."""
    rng = np.random.default_rng(0)
    for i in range(6):
        place = tmp_path / "noise" / ("cat", "espresso", "rocket")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(90, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "noise"


@pytest.fixture
def frail():
    """When the model is to fail."""
    Frail.at, Frail.calls = None, 0
    yield Frail
    Frail.at = None


def check_whole(folder: Path) -> set[str]:
    """That every file with a final name is whole; their names."""
    found = set()
    for path in folder.rglob("*") if folder.exists() else ():
        if path.is_dir() or (path.name.startswith(".") and path.name.endswith(".part")):
            continue
        found.add(path.relative_to(folder).as_posix())
        if path.suffix == ".npz":
            with np.load(path) as content:
                assert {name: content[name].shape for name in content.files}
            assert read_record(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().endswith("</html>\n")
    return found


def numbers(command: str, folder: Path) -> object:
    """What a command's files say that has no seconds in it."""
    if command == "explain":
        return {path.name: np.load(path)["attribution"].tobytes() for path in sorted(folder.glob("**/*.npz"))}
    if command == "evaluate":
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("summary")}
    if command == "compare":
        record = json.loads((folder / "compare.json").read_text())
        return [
            (row["input"], row["target"], row["agreement"], [cell["scores"] for cell in row["cells"]])
            for row in record["rows"]
        ]
    records = json.loads((folder / "bench.json").read_text())["records"]
    return [(r["kind"], r.get("label"), r.get("images"), r.get("forwards"), r.get("backwards")) for r in records]


def one_line(err: str) -> str:
    """The only line of stderr, which is the command's own."""
    (line,) = err.splitlines()
    assert line.startswith("xplain: "), err
    return line


# ---------------------------------------------------------------------------- signals


@needs_fork
@pytest.mark.parametrize("command", COMMANDS)
def test_signals_leave_resumable_files(xp, noise, command):
    ask = [command, str(noise), *TINY, *ASK[command]]
    began = time.monotonic()
    assert wait(start([*ask, "-o", "whole"])) == 0
    long = time.monotonic() - began
    chance, ended = random.Random(command), []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) * 2:
        child = start([*ask, "-o", "run"], err=Path("err"))
        time.sleep(chance.uniform(0, 0.8 * long))
        os.kill(child, number)
        code = wait(child)
        ended.append(code)
        if code not in (0, -signal.SIGKILL):
            assert code == 130
            said = Path("err").read_text()  # nothing where the command line was not there yet
            assert not said or "finished results are complete, run the same command to resume: xplain" in one_line(said)
        check_whole(Path("run"))
    assert 130 in ended or -signal.SIGKILL in ended
    assert xp(*ask, "-o", "run").code == 0
    assert check_whole(Path("run")) == check_whole(Path("whole"))
    assert numbers(command, Path("run")) == numbers(command, Path("whole"))


def test_compare_resumes_interrupted_comparison(xp, noise, method_calls):
    ask = ("compare", noise, *TINY, *ASK["compare"], "-o", "run")
    method_calls.before[4] = interrupt
    assert xp(*ask).code == 130
    assert len(list(Path("run/compare.part").glob("*.npz"))) == 4
    assert xp(*ask).code == 0
    assert method_calls.sizes == [
        2,
        1,
        1,
        2,
        2,
        1,
        1,
        2,
        1,
        1,
    ]  # the fourth run was interrupted; those before it were saved
    assert not Path("run/compare.part").exists()


def test_compare_resumes_interrupted_writing(xp, noise, monkeypatch):
    from xplain.reports import comparison_files as files

    whole, names = files.write_file, []

    def stop_at_the_page(path, content):
        names.append(path.name)
        if path.suffix == ".html":
            raise KeyboardInterrupt
        return whole(path, content)

    ask = ("compare", noise, *TINY, *ASK["compare"], "-o", "run")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", stop_at_the_page)
        assert xp(*ask).code == 130
    assert names == ["compare.png", "agreement.png", "compare.html"]
    assert xp(*ask, "--sign", "signed").code == 2  # another comparison may not have them
    monkeypatch.setattr(
        "xplain.pipelines.attribution.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    assert xp(*ask).code == 0


def test_bench_resumes_interrupted_run(xp, monkeypatch):
    from xplain.pipelines import model_benchmark

    whole, raced = model_benchmark.time_interleaved, []

    def stop_at_the_third(contenders, *rest):
        raced.append(contenders[-1].images)
        if len(raced) == 3:
            raise KeyboardInterrupt
        return whole(contenders, *rest)

    monkeypatch.setattr(model_benchmark, "time_interleaved", stop_at_the_third)
    ask = ("bench", *TINY, *ASK["bench"], "-o", "run")
    assert xp(*ask).code == 130
    first = json.loads(Path("run/bench.part.json").read_text())["groups"]
    assert [group[0]["kind"] for group in first] == ["environment", "ceiling", "run", "run"]
    assert check_whole(Path("run")) == {"bench.part.json", "bench.json", "bench.md"}
    assert xp(*ask).code == 0
    assert raced == [1, 2, 1, 1, 2]  # the third was stopped
    records = json.loads(Path("run/bench.json").read_text())["records"]
    assert records[2:4] == [group[0] for group in first[2:]]
    assert [(r["label"], r["images"]) for r in records[2:]] == [
        ("saliency", 1), ("saliency", 2), ("smoothgrad:samples=3", 1), ("smoothgrad:samples=3", 2),
    ]  # fmt: skip
    raced.clear()
    assert xp(*ask, "--seed", "1").code == 130  # another request shares nothing, and a finished one is measured anew
    assert raced == [1, 2, 1]


def test_bench_interrupted_twice_keeps_results(xp, monkeypatch):
    from xplain.pipelines import model_benchmark, throughput

    race, size, calls = model_benchmark.time_interleaved, throughput.find_best_batch_size, []

    def stop(*args):
        calls.append(1)
        if len(calls) == stop.at:
            raise KeyboardInterrupt
        return stop.whole(*args)

    ask = ("bench", *TINY, *ASK["bench"], "-o", "run")
    with monkeypatch.context() as patch:
        patch.setattr(model_benchmark, "time_interleaved", stop)
        stop.whole, stop.at = race, 4
        assert xp(*ask).code == 130
    there = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert len(json.loads(there["bench.part.json"])["groups"]) == 5  # environment, ceiling, three runs
    for stop.at in (1, 4):  # the ceilings of the bare model are measured anew: the first, the last of them
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(throughput, "find_best_batch_size", stop)
            stop.whole = size
            assert xp(*ask).code == 130
        assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == there
    with monkeypatch.context() as patch:
        patch.setattr(model_benchmark, "time_interleaved", stop)
        stop.whole, stop.at = race, 0
        calls.clear()
        assert xp(*ask).code == 0
    assert len(calls) == 1  # the one that is lacking
    records = json.loads(Path("run/bench.json").read_text())["records"]
    assert records[2:5] == [group[0] for group in json.loads(there["bench.part.json"])["groups"][2:]]
    assert not Path("run/bench.part.json").exists()


def test_bench_without_output_names_option(xp, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xplain.pipelines.model_benchmark.time_interleaved", stop)
    ran = xp("bench", *TINY, *ASK["bench"])
    assert ran.code == 130
    assert one_line(ran.err) == (
        "xplain: error: interrupted, and no results were saved; use --output to make bench resumable"
    )


# ----------------------------------------------------------------- memory and devices

DEATHS = {
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "memory of the machine": MemoryError(),
    "a device that is lost": torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE"),
    "an illegal access": RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"),
}


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_device_failure_is_one_line(xp, noise, frail, command, death):
    ask = (command, noise, *FRAIL, *ASK[command])
    assert xp(*ask, "-o", "whole").code == 0
    calls = frail.calls
    for share in (0, 0.2, 0.7, 1 if command != "bench" else 0.5):  # bench calls the model as often as there is time
        folder = Path(f"run{share}")
        frail.at, frail.calls, frail.error = max(1, int(calls * share)), 0, DEATHS[death]
        ran = xp(*ask, "-o", folder)
        assert ran.code == 4, (frail.at, calls, ran.err)
        assert "out of memory" in ran.err if "memory of" in death else "device error: CUDA error" in ran.err
        one_line(ran.err)
        check_whole(folder)
    frail.at = None
    assert xp(*ask, "-o", folder).code == 0
    assert numbers(command, folder) == numbers(command, Path("whole"))


def test_explain_skips_too_large_image(xp, noise, monkeypatch):
    import xplain.data.images

    whole = xplain.data.images._to_rgb
    monkeypatch.setattr(
        xplain.data.images,
        "_to_rgb",
        lambda image: whole(image) if image.width == 32 else np.empty(1 << 50, dtype=np.uint8),
    )
    Image.new("RGB", (33, 33)).save(noise / "cat" / "large.png")
    ran = xp("explain", noise, *TINY, *ASK["explain"])
    assert (ran.code, len(ran.lines)) == (5, 6 * 2 * 2)
    assert "large.png' is too large for the available memory; reduce its size" in ran.err.splitlines()[0]


# ------------------------------------------------------------------------- the model


@pytest.mark.parametrize("model", ["broken", "infinite"])
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_logits_fail_the_image(xp, noise, command, model):
    Image.new("RGB", (40, 40), "black").save(noise / "cat" / "dark.png")
    poisoned = ("-m", f"python:tests.helpers.factories:{model}", "--device", "cpu")
    (noise / "dark").mkdir()
    shutil.copy(noise / "cat" / "dark.png", noise.parent / "dark.png")
    Path("only/cat").mkdir(parents=True)
    shutil.copy("dark.png", "only/cat")
    ran = xp(command, "only", *poisoned, *ASK[command], "-o", "none")
    assert ran.code == 3
    assert "not finite" in one_line(ran.err)
    if command != "bench":
        ran = xp(command, noise, *poisoned, *ASK[command], "-o", "some")
        assert ran.code == 5
        assert "dark.png' are not finite" in ran.err.splitlines()[0]
        assert len(check_whole(Path("some"))) > 3


# --------------------------------------------------------------------------- the disk


@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk_is_one_line(xp, noise, command):
    ask = (command, noise, *TINY, *ASK[command])
    assert xp(*ask, "-o", "whole").code == 0
    large = sorted(path.stat().st_size for path in Path("whole").rglob("*") if path.is_file())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (10, large[-1] // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            ran = xp(*ask, "-o", "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert ran.code == 3, ran.err
        line = one_line(ran.err)
        assert line.startswith("xplain: error: cannot write 'run/")
        assert line.endswith("; free disk space, then run the same command again to resume")
        check_whole(Path("run"))
        assert not list(Path("run").rglob(".*.part"))
    assert xp(*ask, "-o", "run").code == 0
    assert numbers(command, Path("run")) == numbers(command, Path("whole"))


@needs_fork
@pytest.mark.parametrize("command", COMMANDS)
def test_unwritable_output_is_one_line(xp, noise, command):
    with tempfile.TemporaryDirectory() as place:  # a user who is not root can reach it
        closed = Path(place, "out")
        closed.mkdir(mode=0o555)
        Path(place).chmod(0o755)
        shutil.copytree(noise, Path(place, "noise"))

        def leave_root():
            if os.geteuid() == 0:
                os.chdir(place)
                os.setuid(65534)

        child = start(
            [command, f"{place}/noise", *TINY, *ASK[command], "-o", str(closed)], err=Path("err"), prepare=leave_root
        )
        assert wait(child) == 3
        line = one_line(Path("err").read_text())
        assert "Permission denied" in line
        assert line.endswith("; choose another --output")
        assert not list(closed.iterdir())


@pytest.mark.parametrize("command", ["explain", "compare", "bench"])
def test_deleted_output_is_made_again(xp, noise, command, monkeypatch):
    module, name = {  # in the thread that writes, which else might be writing just then
        "explain": ("xplain.reports.explanation_files", "write_file"),
        "compare": ("xplain.pipelines.attribution:MethodRun", "attribute"),
        "bench": ("xplain.pipelines.model_benchmark", "time_interleaved"),
    }[command]
    owner = resolve_name(module)
    whole, calls = getattr(owner, name), []

    def remove_at_the_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            shutil.rmtree("run")
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, remove_at_the_third)
    ran = xp(command, noise, *TINY, *ASK[command], "-o", "run")
    assert (ran.code, ran.err) == (0, "")
    found = check_whole(Path("run"))
    expected = {"explain": "rocket/5.smoothgrad.raw.npz", "compare": "compare.json", "bench": "bench.json"}
    assert expected[command] in found


def test_evaluate_stops_if_its_run_is_deleted(xp, noise, method_calls):
    method_calls.before[3] = lambda: shutil.rmtree("run")
    ask = ("evaluate", noise, *TINY, *ASK["evaluate"], "-o", "run")
    ran = xp(*ask)
    assert ran.code == 3
    assert one_line(ran.err) == (
        "xplain: error: 'run/items/0.jsonl' was deleted during the run; run the same command again"
    )
    assert len(method_calls.sizes) == 3
    assert xp(*ask).code == 0


# ---------------------------------------------------------------------- two at a time


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_locked_directory_is_rejected(xp, noise, command):
    ask = (command, noise, *TINY, *ASK[command], "-o", "run")
    with lock_directory(Path("run")):
        ran = xp(*ask)
    assert (ran.code, ran.out) == (3, "")
    assert one_line(ran.err) == (
        "xplain: error: another process is writing into 'run'; wait for it, or choose another --output"
    )
    assert xp(*ask).code == 0


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
    assert "already exists with different settings; use --overwrite or choose another --output" in one_line(ran.err)
    seeds = [read_record(path)["seed"] for path in Path("run").rglob("*.png")]
    assert seeds == [1] * 6


@needs_fork
def test_shards_write_reports_in_turn(xp, noise):
    ask = ["evaluate", str(noise), *TINY, "-a", "sm", "-M", "deletion:steps=2", "-o", "run"]
    assert xp(*ask, "--shard", "0/2").code == 0
    Path("run/summary.json").unlink()
    hold = "import sys; from pathlib import Path; from xplain.core.files import lock_directory\n"
    hold += "with lock_directory(Path('run')): print(flush=True), sys.stdin.read()"
    other = subprocess.Popen(  # not forked from this one, which would share what it holds
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    other.stdout.readline()
    child = start([*ask, "--shard", "1/2"])
    items = Path("run/items/1.jsonl")
    while not items.exists() or len(items.read_text().splitlines()) < 9:  # three images, two methods
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    assert not Path("run/summary.json").exists()
    other.kill()
    other.communicate()
    assert wait(child) == 0
    assert json.loads(Path("run/summary.json").read_text())["items"]["evaluated"] == 6


# --------------------------------------------------------------------------- readers


@needs_fork
@pytest.mark.parametrize("command", [*COMMANDS, "list"])
def test_broken_pipe_stops_remaining_work(xp, noise, command):
    reading, writing = os.pipe()
    os.close(reading)
    ask = (
        ["list", "methods"] if command == "list" else [command, str(noise), *TINY, *ASK[command], "-o", "run", "--json"]
    )
    code = wait(start(ask, out=writing, err=Path("err")))
    os.close(writing)
    err = Path("err").read_text()
    if command in ("explain", "bench"):  # they print as they go: the rest is not done
        assert code == 130
        assert "interrupted; finished results are complete" in one_line(err)
        assert 0 < len(check_whole(Path("run"))) < 24
        assert xp(*ask).code == 0
    else:
        assert (code, err) == (0, "")
    if command == "evaluate":
        assert {"summary.json", "report.html"} <= check_whole(Path("run"))


@needs_fork
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["list", "explain"])
def test_full_stdout_is_one_line(xp, noise, command):
    ask = ["list", "methods"] if command == "list" else ["explain", str(noise), *TINY, *ASK["explain"]]
    full = os.open("/dev/full", os.O_WRONLY)
    assert wait(start(ask, out=full, err=Path("err"))) == 3
    os.close(full)
    assert one_line(Path("err").read_text()).startswith("xplain: error: cannot write to standard output: No space left")
