"""``xplain bench``: its records and tables, from prescribed and from real seconds."""

from __future__ import annotations

import json

import pytest
import torch
from scipy.stats import spearmanr

import xplain
from tests.conftest import TINY
from tests.helpers import toys
from xplain.core.config import BenchConfig
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines import model_benchmark, throughput
from xplain.pipelines.throughput import BatchSizeSearch

LITE = ("-m", "efficientnet-lite0", "--device", "cpu", "--size", 64)


def test_ceiling_candidate_fills_min_seconds():
    calls: list[int] = []
    config = BenchConfig(ModelOptions(device="cpu"), ComputeOptions(), models=(), methods=(), metrics=())
    classifier = toys.classifier(toys.small_net(), preprocessing=Preprocessing.for_size(8))
    benchmark = model_benchmark.ModelBenchmark(config, classifier)
    candidate = benchmark._make_ceiling_candidate(
        "gradients", lambda batch: calls.append(len(batch)), BatchSizeSearch(4, {4: 16.0})
    )
    candidate.warm_up()
    assert calls == [4]
    candidate.run()
    assert calls == [4] + [4] * 4  # 16 rows per second
    assert candidate.images == 16


@pytest.fixture
def short_ceiling(monkeypatch):
    """Try two batch sizes, and time the plain model briefly."""
    monkeypatch.setattr(throughput, "CPU_SIZES", (1, 2))
    monkeypatch.setattr(model_benchmark, "MIN_SECONDS", 0.001)


@pytest.fixture
def prescribed_seconds(monkeypatch):
    """Prescribe the seconds of each round by program; ``other`` is any reference implementation."""
    seconds = {
        "gradients": [1.0, 1.0, 2.0],
        "forwards": [0.5, 0.5, 1.0],
        "xplain": [4.0, 5.0, 8.0],
        "other": [8.0, 20.0, 24.0],
    }
    monkeypatch.setattr(throughput, "find_best_batch_size", lambda work, x: BatchSizeSearch(4, {2: 8.0, 4: 16.0}))
    monkeypatch.setattr(model_benchmark, "MIN_SECONDS", 0.1)
    time_for_real = model_benchmark.time_interleaved

    def prescribe(candidates, rounds, device):
        results = time_for_real(candidates, 0, device)
        for result in results:
            program = result.candidate.program
            result.seconds[:] = [] if result.error else seconds.get(program, seconds["other"])[:rounds]
        return results

    monkeypatch.setattr(model_benchmark, "time_interleaved", prescribe)


def test_records_follow_from_seconds_and_rows(xp, prescribed_seconds):
    ran = xp("bench", *TINY, "-a", "agi:steps=2,classes=3,step_size=1e-6", "--images", 2, "--repeats", 3,
             "--peer", "captum", "--json", "-q")  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    environment, ceiling, one, loop, two, loops = ran.records
    assert (environment["kind"], environment["repeats"], environment["images"]) == ("environment", 3, 2)
    assert environment["threads"] == torch.get_num_threads()
    assert ceiling["prepared"]["gradients"] == {"rows": 4, "rows_per_second": 16.0, "all": {"2": 8.0, "4": 16.0}}
    assert (one["program"], one["images"], loop["program"], two["images"]) == ("xplain", 1, "sequential loop", 2)
    # three classes, two steps: 6 forward and 12 backward rows per image, 3 rows per call; four rows of the plain model
    # take 1 s with and 0.5 s without gradients, so these rows take 6/8 + 12/8 = 2.25 s
    assert (one["forwards"], one["backwards"], one["rows_a_call"], two["rows_a_call"]) == (6, 12, 3, 6)
    assert one["images_per_second"] == {"median": 0.2, "low": 0.125, "high": 0.25}
    assert two["images_per_second"] == {"median": 0.4, "low": 0.25, "high": 0.5}
    assert one["gradient_rows_per_second"] == {"median": 2.4, "low": 1.5, "high": 3.0}
    assert one["forward_rows_per_second"] == {"median": 1.2, "low": 0.75, "high": 1.5}
    assert one["efficiency"] == pytest.approx({"median": 0.5625, "low": 0.45, "high": 0.5625})
    assert two["efficiency"] == pytest.approx({"median": 1.125, "low": 0.9, "high": 1.125})
    assert loop["xplain_is_faster_by"] == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert (loop["efficiency"], loop["forwards"], one["xplain_is_faster_by"]) == (None, None, None)
    assert loops["images_per_second"] == {"median": 0.1, "low": pytest.approx(2 / 24), "high": 0.25}


def test_batched_reference_runs_at_default_and_best_rows(xp, prescribed_seconds):
    pytest.importorskip("captum")
    ran = xp("bench", *TINY, "-a", "ig:steps=4", "--images", 2, "--repeats", 1, "--peer", "captum", "--json", "-q")
    assert [(r["program"], r["images"], r["rows_asked"]) for r in ran.records[2:]] == [
        ("xplain", 1, None), ("captum", 1, None), ("captum", 1, 2), ("xplain", 2, None), ("captum", 2, 2),
    ]  # fmt: skip


def test_metric_efficiency_uses_plain_forwards(xp, prescribed_seconds):
    ran = xp("bench", *TINY, "-a", "saliency", "-M", "insertion:steps=7", "--images", 1, "--repeats", 1, "--json", "-q")
    record = ran.records[-1]
    assert (record["metric"], record["label"]) == ("insertion", "insertion:steps=7")
    assert (record["forwards"], record["backwards"]) == (8, 0)
    assert record["gradient_rows_per_second"] is None
    # 8 rows of the plain model's forward pass take 1 s, the metric took 4 s
    assert record["efficiency"]["median"] == pytest.approx(8 / 8 / 4)


def test_bench_writes_tables_and_files(xp, prescribed_seconds, tmp_path):
    ran = xp("bench", *TINY, "-a", "saliency", "-a", "random", "--images", 1, "--repeats", 1, "-o", "out")
    assert ran.code == 0
    assert (tmp_path / "out" / "bench.md").read_text() == ran.out
    assert "(trained, 32 x 32)" in ran.out
    assert "* optimized by xplain: 16 gradient rows/s at batch size 4, 16 forward rows/s at batch size 4" in ran.out
    assert (
        "| saliency | 1 | xplain | 0.25 (0.25 to 0.25) | 0.25 (0.25 to 0.25) | 0.25 (0.25 to 0.25) | 0.0625" in ran.out
    )
    records = json.loads((tmp_path / "out" / "bench.json").read_text())["records"]
    assert [record["kind"] for record in records] == ["environment", "ceiling", "run", "run"]
    assert records[-1]["efficiency"] is None  # random does not run the model


def test_bench_accepts_images(xp, prescribed_seconds, photos):
    ran = xp("bench", photos, *TINY, "-a", "saliency", "--images", 2, "--repeats", 1, "--json", "-q")
    assert ran.code == 0
    assert ran.records[-1]["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-a", "salency"], 2, "did you mean 'saliency'?"),
        (["-a", "ig:steps=0"], 2, "steps=0"),
        (["-M", "insertoin"], 2, "did you mean 'insertion'?"),
        (["--repeats", "0"], 2, "repeats"),
        (["--peer", "zennit"], 2, "captum"),
        (["nowhere.jpg"], 3, "nowhere.jpg"),
    ],
)
def test_bench_reports_invalid_requests(xp, arguments, code, words):
    ran = xp("bench", *TINY, *arguments)
    assert (ran.code, ran.err.count("\n")) == (code, 1)
    assert words in ran.err


def test_bench_names_incompatible_method(xp, short_ceiling):
    ran = xp("bench", *TINY, "-a", "attention-rollout", "--images", 1)
    assert ran.code == 2
    assert "attention-rollout" in ran.err


def test_bench_times_for_real(xp, short_ceiling):
    ran = xp("bench", *TINY, "-a", "ig:steps=3", "--images", 2, "--repeats", 2, "--json")
    assert ran.code == 0
    one = ran.records[2]
    assert one["images_per_second"]["low"] <= one["images_per_second"]["median"] <= one["images_per_second"]["high"]
    assert len(one["seconds"]) == 2
    model = "python:tests.helpers.factories:tiny"
    assert f"measured integrated-gradients:steps=3 on {model} (images: 1, implementation: xplain)" in ran.err


def test_interrupted_bench_leaves_results_on_disk(xp, prescribed_seconds, tmp_path, monkeypatch):
    prescribe = model_benchmark.time_interleaved

    def read_records() -> list[dict]:
        return json.loads((tmp_path / "out" / "bench.json").read_text())["records"]

    def interrupt_second_method(candidates, rounds, device):
        if (tmp_path / "out" / "bench.json").exists() and len(read_records()) == 3:
            raise KeyboardInterrupt
        return prescribe(candidates, rounds, device)

    monkeypatch.setattr(model_benchmark, "time_interleaved", interrupt_second_method)
    ran = xp("bench", *TINY, "-a", "saliency", "-a", "ig:steps=2", "--images", 1, "--repeats", 1, "-o", "out")
    assert ran.code == 130
    assert "interrupted; 1 of 2 results are kept. To resume, run: " in ran.err
    assert [record.get("label") for record in read_records()] == [None, None, "saliency"]
    assert "| saliency | 1 | xplain |" in (tmp_path / "out" / "bench.md").read_text()


def test_bench_compares_bf16_with_fp32(xp, short_ceiling):
    arguments = ("-a", "saliency", "-M", "insertion:steps=3", "--images", 2, "--repeats", 1)
    ran = xp("bench", *LITE, *arguments, "--precision", "bf16", "--json", "-q")
    _, _, one, two, _, metric = ran.records
    assert one["agreement_with_fp32"] is None  # computed once, on all images
    agreement = two["agreement_with_fp32"]
    model = xplain.load_classifier("efficientnet-lite0", "cpu")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = xplain.attribute(model, images, "saliency", precision="fp32").values
    rough = xplain.attribute(model, images, "saliency", precision="bf16").values
    lowest = torch.cosine_similarity(exact.flatten(1), rough.flatten(1)).min()
    assert agreement["cosine"] == pytest.approx(float(lowest), abs=1e-5)
    ranks = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(exact, rough, strict=True)]
    assert agreement["spearman"] == pytest.approx(min(ranks), abs=1e-5)
    assert 0.5 < agreement["spearman"] < 1
    assert 0 < metric["agreement_with_fp32"]["largest_difference"] < 0.05


def test_table_has_agreement_column_below_fp32(xp, short_ceiling):
    arguments = ("bench", *LITE, "-a", "saliency", "--images", 1, "--repeats", 1, "-q")
    assert "agreement with fp32" not in xp(*arguments).out
    assert "| agreement with fp32 |" in xp(*arguments, "--precision", "bf16").out
    assert xp(*arguments, "--precision", "bf16").out.splitlines()[-1].split("|")[-2].startswith(" cosine 0.")
