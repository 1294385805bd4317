"""The parts of ``make cuda`` on the CPU, at tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import xplain
from tests.cuda.networks import make_network
from tests.tools import cuda_parts
from tests.tools.cuda_agreement import Agreement
from tests.tools.cuda_check import BENCHMARKS, list_parts, main, run_parts
from tests.tools.cuda_parts import PartResult, check_agreement, check_back_off, check_command, check_layouts, run_bench
from xplain.core.config import Choice
from xplain.core.registry import METHODS, METRICS

SINGLE = ("-m", "python:tests.helpers.factories:single")


@pytest.fixture
def in_process(xp, monkeypatch):
    """Run commands in this process, and the bare model of benchmarks for a moment only."""

    def run(*arguments: str, timeout: float = 0) -> subprocess.CompletedProcess[str]:
        ran = xp(*arguments)
        return subprocess.CompletedProcess(arguments, ran.code, ran.out, ran.err)

    monkeypatch.setattr(cuda_parts, "run_xplain", run)
    monkeypatch.setattr("xplain.pipelines.model_benchmark.MIN_SECONDS", 0.001)
    monkeypatch.setattr("xplain.pipelines.throughput.CPU_SIZES", (1, 2))


def test_agreement_passes_on_the_cpu():
    names = ["saliency", "integrated-gradients", "agi", "attention-relevance", "deletion"]
    result = check_agreement("cpu", names)
    assert result.failures == []
    assert (
        result.lines[0]
        == "9 pairs of a method or metric and a network, 0 failures; errors relative to the largest value."
    )
    assert [record["name"] for record in result.data if record["refusal"]] == ["attention-relevance"]
    assert all(
        record["error"] == record["cpu_error"] < 1e-3
        for record in result.data
        if record["is_judged"] and not record["refusal"]
    )
    assert all(record["is_repeatable"] for record in result.data)


def test_agreement_reports_a_method_that_differs(monkeypatch):
    """On the device only: the third classifier."""
    original, calls = xplain.attribute, []

    def attribute(*arguments, **options):
        calls.append(arguments[2])
        result = original(*arguments, **options)
        return replace(result, values=result.values * (1.01 if len(calls) in (3, 4) else 1))

    monkeypatch.setattr(xplain, "attribute", attribute)
    result = check_agreement("cpu", ["saliency"], ["convolutional"])
    assert (
        calls == ["saliency"] * 7
    )  # a map for metrics, then exact, twice on the device, at two precisions, and on the CPU
    assert result.failures[0].startswith("saliency on convolutional: the error is 1.0e-02, that of the CPU in float32 ")


def test_agreement_needs_something_to_compare():
    assert check_agreement("cpu", ["attention-rollout"], ["convolutional"]).failures == [
        "attention-rollout fits none of the networks",
        "nothing was compared",
    ]
    assert check_agreement("cpu", ["no method"], ["convolutional"]).failures == ["nothing was compared"]


@pytest.mark.parametrize(
    ("values", "failure"),
    [
        ({"error": 1e-5, "cpu_error": 1e-7}, ""),
        ({"error": 1e-3, "cpu_error": 1e-4}, ""),
        ({"error": 1e-3, "cpu_error": 1e-6}, "the error is 1.0e-03, that of the CPU in float32 1.0e-06"),
        ({"error": float("nan"), "cpu_error": 1e-6}, "the error is nan, that of the CPU in float32 1.0e-06"),
        ({"error": 0.5, "cpu_error": 1e-6, "is_judged": False}, ""),
        ({"error": 0.5, "cpu_error": 0.4, "difference": 1e-3}, ""),
        ({"error": 0.5, "cpu_error": 0.4, "difference": 0.1}, "the difference from the CPU in float32 is 1.0e-01"),
        ({"error": 0.5, "cpu_error": 0.5, "is_repeatable": False}, "a second run gave other bytes"),
        ({"problem": "RuntimeError: no kernel"}, "RuntimeError: no kernel"),
        ({"refusal": "no attention"}, ""),
    ],
)
def test_failures_of_agreement(values, failure):
    assert Agreement("net", "name", **values).failure == failure


def test_back_off_finds_fewer_rows():
    result = check_back_off("cpu", make_network())
    assert result.failures == []
    assert result.data["rows"] == 64
    assert result.data["forward_rows"] == 256
    assert result.data["cosine"] > 0.999999


def test_back_off_reports_memory_that_does_not_run_out(monkeypatch):
    monkeypatch.setattr(cuda_parts, "ROWS_OF_BACK_OFF", 8)
    result = check_back_off("cpu", make_network())
    assert result.failures == [f"a call of 8 rows fitted in {1 << 30} bytes: the memory did not run out"]


def test_layouts_of_working_copies(monkeypatch):
    monkeypatch.setattr("xplain.pipelines.throughput.CPU_SIZES", (1,))
    result = check_layouts("cpu", [make_network()])
    assert result.failures == []
    assert [record["precision"] for record in result.data] == ["fp32", "bf16"]
    assert min(min(record["rates"]) for record in result.data) > 0


def test_command_and_benchmark(in_process, tmp_path):
    result = check_command("cpu", tmp_path, (*SINGLE, "-a", "ig:steps=2"))
    assert result.failures == []
    assert (result.data["device"], result.data["cost"]["backwards"]) == ("cpu", 2)
    bench = run_bench("cpu", tmp_path, "tiny", (*SINGLE, "-a", "saliency", "--images", "2", "--repeats", "1"), 60)
    assert bench.failures == []
    assert "| saliency | 2 | xplain |" in bench.lines[-1]
    assert "| saliency | 2 | captum |" in bench.lines[-1]
    assert [record["kind"] for record in bench.data["records"][:2]] == ["environment", "ceiling"]


def test_failed_commands_are_reported(in_process, tmp_path):
    assert check_command("cpu", tmp_path, ("-a", "nothing")).failures[0].startswith("exit code 2: ")
    bench = run_bench("cpu", tmp_path, "none", ("-a", "nothing"), 60, peer=False)
    assert bench.failures[0].startswith("xplain bench -a nothing: exit code 2: ")
    assert bench.lines == ["No results."]


def test_results_are_written_after_each_part(tmp_path, capsys):
    def fail(left: float) -> PartResult:
        assert json.loads((tmp_path / "cuda.json").read_text())["parts"][0]["part"] == "good"
        raise RuntimeError("CUDA error: lost\nmore")

    parts = {"good": lambda left: PartResult("good", [], ["| a table |"], 7), "bad": fail}
    results = run_parts(parts, 100, tmp_path, {"GPU": "none"})
    assert [result.failures for result in results] == [[], ["RuntimeError: CUDA error: lost"]]
    written = json.loads((tmp_path / "cuda.json").read_text())
    assert [(part["part"], part["data"]) for part in written["parts"]] == [("good", 7), ("bad", None)]
    page = (tmp_path / "cuda.md").read_text()
    assert "## good (0 s)\n\n| a table |" in page
    assert "* **failed**: RuntimeError: CUDA error: lost" in page
    assert capsys.readouterr().out == "good: passed (0 s)\nbad: RuntimeError: CUDA error: lost (0 s)\n"


def test_parts_are_skipped_when_the_time_is_over(tmp_path):
    (result,) = run_parts({"late": lambda left: 1 / 0}, 10, tmp_path, {})
    assert result.failures == ["skipped: 10 s are left"]


def test_benchmarks_name_methods_that_exist(tmp_path):
    assert list(list_parts("cpu", tmp_path))[:4] == ["command", "agreement", "memory", "layouts"]
    for arguments, _ in BENCHMARKS.values():
        for option, value in pairwise(arguments):
            if option in ("-a", "-M"):
                choice = Choice.parse(value)
                (METHODS if option == "-a" else METRICS).get(choice.name).resolve(dict(choice.params))


def test_without_a_device_one_line_and_exit_code_4(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"no CUDA device: PyTorch {torch.__version__} found none; run this on a machine with a GPU\n"


def test_commands_run_with_this_interpreter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = cuda_parts.run_xplain("--version")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.args[0] == sys.executable
