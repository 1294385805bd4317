"""Failures of memory, devices, models and disks: one line, an exit code, complete files, and a run that resumes.

``tests/cli/test_evaluate_interruption.py`` has more for evaluate.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.helpers.commands import COMMANDS, OPTIONS, check_files, needs_fork, read_messages, read_results, single_line
from tests.helpers.processes import start, wait

pytestmark = pytest.mark.usefixtures("fast_commands")
FAILING = ("-m", "python:tests.helpers.factories:failing", "--device", "cpu")
ERRORS = {
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "memory of the machine": MemoryError(),
    "a device that is lost": torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE"),
    "an illegal access": RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("command", COMMANDS)
def test_device_failure_is_one_line(xp, noise, failure, command, error):
    command_line = (command, noise, *FAILING, *OPTIONS[command])
    assert xp(*command_line, "-o", "whole").code == 0
    calls = failure.calls
    for share in (0, 0.2, 0.7, 1 if command != "bench" else 0.5):  # the number of calls of bench depends on the time
        folder = Path(f"run{share}")
        failure.at, failure.calls, failure.error = max(1, int(calls * share)), 0, ERRORS[error]
        ran = xp(*command_line, "-o", folder)
        assert ran.code == 4, (failure.at, calls, ran.err)
        assert "out of memory" in ran.err if "memory of" in error else "device error: CUDA error" in ran.err
        single_line(ran.err)
        check_files(folder)
    failure.at = None
    assert xp(*command_line, "-o", folder).code == 0
    assert read_results(command, folder) == read_results(command, Path("whole"))


def test_explain_skips_too_large_image(xp, noise, monkeypatch):
    import xplain.data.images

    convert = xplain.data.images.convert_to_rgb

    def convert_small(image, *arguments):
        return convert(image, *arguments) if image.width == 32 else np.empty(1 << 50, dtype=np.uint8)

    monkeypatch.setattr(xplain.data.images, "convert_to_rgb", convert_small)
    Image.new("RGB", (33, 33)).save(noise / "cat" / "large.png")
    ran = xp("explain", noise, *TINY, *OPTIONS["explain"])
    assert (ran.code, len(ran.lines)) == (5, 6 * 2 * 2)
    assert "large.png'; resize the image" in read_messages(ran.err)[0]


@pytest.mark.parametrize("model", ["broken", "infinite"])
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_logits_fail_the_image(xp, noise, command, model):
    Image.new("RGB", (40, 40), "black").save(noise / "cat" / "dark.png")
    poisoned = ("-m", f"python:tests.helpers.factories:{model}", "--device", "cpu")
    (noise / "dark").mkdir()
    shutil.copy(noise / "cat" / "dark.png", noise.parent / "dark.png")
    Path("only/cat").mkdir(parents=True)
    shutil.copy("dark.png", "only/cat")
    ran = xp(command, "only", *poisoned, *OPTIONS[command], "-o", "none")
    assert ran.code == 3
    assert "contain NaN or infinity" in single_line(ran.err)
    if command != "bench":
        ran = xp(command, noise, *poisoned, *OPTIONS[command], "-o", "some")
        assert ran.code == 5
        assert "dark.png' contain NaN or infinity" in read_messages(ran.err)[0]
        assert len(check_files(Path("some"))) > 3


@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk_is_one_line(xp, noise, command):
    command_line = (command, noise, *TINY, *OPTIONS[command])
    assert xp(*command_line, "-o", "whole").code == 0
    sizes = sorted(path.stat().st_size for path in Path("whole").rglob("*") if path.is_file())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (10, sizes[-1] // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            ran = xp(*command_line, "-o", "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert ran.code == 3, ran.err
        line = single_line(ran.err)
        assert line.startswith("xplain: error: cannot write 'run/")
        assert line.endswith("; free disk space, then run the same command again to resume")
        check_files(Path("run"))
        assert not list(Path("run").rglob(".*.part"))
    assert xp(*command_line, "-o", "run").code == 0
    assert read_results(command, Path("run")) == read_results(command, Path("whole"))


@needs_fork
@pytest.mark.parametrize("command", COMMANDS)
def test_unwritable_output_is_one_line(xp, noise, command):
    with tempfile.TemporaryDirectory() as place:  # other users can read it, unlike tmp_path
        closed = Path(place, "out")
        closed.mkdir(mode=0o555)
        Path(place).chmod(0o755)
        shutil.copytree(noise, Path(place, "noise"))

        def leave_root():
            if os.geteuid() == 0:
                os.chdir(place)
                os.setuid(65534)

        child = start(
            [command, f"{place}/noise", *TINY, *OPTIONS[command], "-o", str(closed)],
            err=Path("err"),
            prepare=leave_root,
        )
        assert wait(child) == 3
        line = single_line(Path("err").read_text())
        assert "Permission denied" in line
        assert line.endswith("; choose another --output")
        assert not list(closed.iterdir())


@pytest.mark.parametrize("command", ["explain", "compare", "bench"])
def test_deleted_output_is_made_again(xp, noise, command, monkeypatch):
    owner_name, name = {  # for explain in the thread that writes, which cannot be writing at that moment
        "explain": ("xplain.reports.explanation_files", "write_file"),
        "compare": ("xplain.pipelines.method_run:MethodRun", "attribute"),
        "bench": ("xplain.pipelines.model_benchmark", "time_interleaved"),
    }[command]
    owner = resolve_name(owner_name)
    function, calls = getattr(owner, name), []

    def delete_before_third_call(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            shutil.rmtree("run")
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, delete_before_third_call)
    ran = xp(command, noise, *TINY, *OPTIONS[command], "-o", "run")
    assert (ran.code, read_messages(ran.err)) == (0, [])
    names = check_files(Path("run"))
    expected = {"explain": "rocket/5.smoothgrad.raw.npz", "compare": "compare.json", "bench": "bench.json"}
    assert expected[command] in names


def test_evaluate_stops_if_run_deleted(xp, noise, method_calls):
    method_calls.before[3] = lambda: shutil.rmtree("run")
    command_line = ("evaluate", noise, *TINY, *OPTIONS["evaluate"], "-o", "run")
    ran = xp(*command_line)
    assert ran.code == 3
    assert single_line(ran.err) == (
        "xplain: error: 'run/items/0.jsonl' was deleted or replaced during the run; run the same command again"
    )
    assert len(method_calls.sizes) == 3
    assert xp(*command_line).code == 0


@needs_fork
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["list", "explain"])
def test_full_stdout_is_one_line(xp, noise, command):
    command_line = {"list": ["list", "methods"], "explain": ["explain", str(noise), *TINY, *OPTIONS["explain"]]}[
        command
    ]
    full = os.open("/dev/full", os.O_WRONLY)
    assert wait(start(command_line, out=full, err=Path("err"))) == 3
    os.close(full)
    assert single_line(Path("err").read_text()).startswith("xplain: error: cannot write to stdout: No space left")
