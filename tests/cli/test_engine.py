"""``--engine``: records, fingerprints, resumed runs and the choice of ``auto``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import xplain
from tests.helpers.engines import needs_openvino
from xplain.oracle import engine_choice, engine_gain
from xplain.pipelines import model_benchmark, throughput
from xplain.reports.benchmark_report import benchmark_table

pytestmark = needs_openvino

needs_bf16 = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no bf16 arithmetic"
)
SINGLE = ("-m", "python:tests.helpers.factories:single", "--device", "cpu")
TORCH = {"forwards": "torch", "gradients": "torch"}
FORWARDS = {"forwards": "openvino", "gradients": "torch"}
BOTH = {"forwards": "openvino", "gradients": "openvino"}
EVALUATE = (*SINGLE, "-M", "deletion:steps=8", "-a", "saliency", "--limit", "1", "-o", "run")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Store converted graphs in a folder of these tests, and take the engine for twice as fast as PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_gain, "measure_gain", lambda *_: 2.0)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def read_run() -> dict:
    return json.loads(Path("run", "run.json").read_text())


def read_values() -> dict:
    lines = [json.loads(line) for line in Path("run", "items", "0.jsonl").read_text().splitlines()]
    return {(line["key"], line["method"]): line["value"] for line in lines if line["mark"] != "item"}


def test_evaluate_records_the_engine_and_resumes_with_it(xp, photos, monkeypatch):
    assert xp("evaluate", photos, *EVALUATE, "-o", "plain").code == 0
    assert xp("evaluate", photos, *EVALUATE, "--engine", "openvino").code == 0
    description = read_run()
    assert description["fingerprint"]["engine"] == description["environment"]["engine"] == BOTH
    assert "openvino" in description["environment"]["versions"]
    values = read_values()
    plain = json.loads(Path("plain", "run.json").read_text())
    assert "engine" not in plain["fingerprint"]
    assert plain["environment"]["engine"] == TORCH
    lines = [json.loads(line) for line in Path("plain", "items", "0.jsonl").read_text().splitlines()]
    for line in lines:
        if line["mark"] != "item":
            assert values[line["key"], line["method"]] == pytest.approx(line["value"], abs=1e-5)
    Path("run", "items", "0.jsonl").unlink()
    assert xp("evaluate", photos, *EVALUATE).code == 0  # auto continues with the engine of the run
    assert read_run()["fingerprint"]["engine"] == BOTH
    assert read_values() == values
    refused = xp("evaluate", photos, *EVALUATE, "--engine", "torch")
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == (
        f"xplain: error: 'run' contains a run with a different engine: {BOTH} instead of {TORCH}; "
        "use the same settings or another --output"
    )
    monkeypatch.setattr(engine_choice, "FORWARD_ROWS", 1)
    assert xp("evaluate", photos, *EVALUATE, "-o", "run2").code == 0
    assert json.loads(Path("run2", "run.json").read_text())["fingerprint"]["engine"] == FORWARDS


@needs_bf16
def test_bf16_computes_forward_passes_only(xp, photos, monkeypatch):
    arguments = ("evaluate", photos, *EVALUATE, "--precision", "bf16")
    ran = xp(*arguments, "--engine", "openvino")
    assert ran.code == 0
    assert "computes forward passes only: it computes gradients in fp32 only; PyTorch computes the gradients" in ran.err
    description = read_run()
    assert description["fingerprint"]["engine"] == description["environment"]["engine"] == FORWARDS
    assert description["fingerprint"]["precision"] == "bf16"
    values = read_values()
    Path("run", "items", "0.jsonl").unlink()
    assert xp(*arguments).code == 0  # auto continues with the engine of the run
    assert read_values() == values
    assert xp(*arguments, "-o", "torch").code == 0
    monkeypatch.setattr(engine_choice, "FORWARD_ROWS", 1)
    assert xp(*arguments, "-o", "torch").code == 0  # a run that PyTorch began
    assert "engine" not in json.loads(Path("torch", "run.json").read_text())["fingerprint"]
    assert xp(*arguments, "-o", "auto").code == 0
    assert json.loads(Path("auto", "run.json").read_text())["fingerprint"]["engine"] == FORWARDS


def test_explain_records_the_engine_of_each_method(xp, photos, monkeypatch):
    monkeypatch.setattr(engine_choice, "FORWARD_ROWS", 60)
    arguments = ("explain", photos / "cat", *SINGLE, "-a", "rise:masks=60", "-a", "saliency", "-o", "out", "--json")
    first = xp(*arguments)
    records = {record["method"]: record for record in first.records}
    assert records["rise"]["engine"] == FORWARDS
    assert records["saliency"]["engine"] == TORCH
    assert "openvino" in records["rise"]["versions"]
    assert "openvino" not in records["saliency"]["versions"]
    again = xp(*arguments)
    assert again.records == first.records
    other = {record["method"]: record for record in xp(*arguments, "--engine", "torch").records}
    assert other["rise"]["engine"] == TORCH
    assert other["rise"]["files"] != records["rise"]["files"]
    assert "engine=torch" in str(other["rise"]["files"])
    assert other["saliency"] == records["saliency"]


def test_a_missing_package_is_noted(xp, photos, monkeypatch):
    monkeypatch.setattr(engine_choice, "find_spec", lambda name: None)
    ran = xp("explain", photos / "cat", *SINGLE, "-a", "saliency", "-o", "out", "--json", "--engine", "openvino")
    assert ran.code == 0
    assert ran.records[0]["engine"] == TORCH
    assert (
        "note: --engine openvino is not used: openvino is not installed (pip install 'xplain-vision[openvino]'); "
        "PyTorch computes the rows"
    ) in ran.err


def test_compare_and_library_accept_an_engine(xp, photos):
    ran = xp(
        "compare",
        photos / "cat",
        *SINGLE,
        "-a",
        "saliency",
        "-M",
        "deletion:steps=4",
        "--engine",
        "openvino",
        "-o",
        "c",
    )
    assert ran.code == 0
    assert '"gradients": "openvino"' in Path("c", "compare.json").read_text()
    network = xplain.load_classifier("python:tests.helpers.factories:single", device="cpu")
    with pytest.raises(xplain.core.errors.UsageError, match="unknown engine 'tensorrt'"):
        xplain.attribute(
            network, xplain.read_image(next((photos / "cat").iterdir()), size=32)[None], "saliency", engine="tensorrt"
        )


def test_bench_measures_both_engines(xp, monkeypatch):
    monkeypatch.setattr(throughput, "CPU_SIZES", (1, 2))
    monkeypatch.setattr(model_benchmark, "MIN_SECONDS", 0.001)
    arguments = ("bench", *SINGLE, "-a", "saliency", "--images", 1, "--repeats", 2, "--engine", "openvino")
    ran = xp(*arguments, "--json", "-q")
    _, ceiling, plain, compiled = ran.records
    assert set(ceiling["openvino"]) == {"gradients", "forwards"}
    assert (plain["program"], compiled["program"]) == ("xplain", "xplain, openvino")
    ratios = [a / b for a, b in zip(plain["seconds"], compiled["seconds"], strict=True)]
    assert compiled["openvino_is_faster_by"]["high"] == pytest.approx(max(ratios))
    assert "openvino_is_faster_by" not in plain
    assert (compiled["forwards"], compiled["backwards"]) == (1, 1)
    table = benchmark_table(ran.records)
    assert "* compiled by OpenVINO: " in table
    assert "speedup over PyTorch" in table


@needs_bf16
def test_bench_compares_bf16_of_the_engine_with_fp32(xp, monkeypatch):
    monkeypatch.setattr(throughput, "CPU_SIZES", (1, 2))
    monkeypatch.setattr(model_benchmark, "MIN_SECONDS", 0.001)
    arguments = ("bench", *SINGLE, "-a", "random", "-M", "deletion:steps=4", "--images", 1, "--repeats", 1)
    ran = xp(*arguments, "--engine", "openvino", "--precision", "bf16", "--json", "-q")
    ceiling, metrics = ran.records[1], ran.records[-2:]
    assert set(ceiling["openvino"]) == {"forwards"}
    assert [record["program"] for record in metrics] == ["xplain", "xplain, openvino"]
    plain, compiled = (record["agreement_with_fp32"]["largest_difference"] for record in metrics)
    assert 0 < compiled < 0.05
    assert compiled != plain
