"""``xplain bench``: the figures that follow from prescribed seconds, and what is recorded."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

import xplain
from tests.conftest import TINY
from tests.helpers import toys
from xplain.core.config import BenchConfig, ComputeOptions, ModelOptions
from xplain.core.types import Cost
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines import benchmark
from xplain.pipelines import throughput as ceiling
from xplain.pipelines import timing as race
from xplain.pipelines.throughput import Best
from xplain.pipelines.timing import Account, Contender

CPU = torch.device("cpu")
LITE = ("-m", "efficientnet-lite0", "--device", "cpu", "--size", 64)


def contender(name: str, log: list[str]) -> Contender:
    def run() -> Account:
        log.append(name)
        if name == "broken":
            raise ValueError("no such layer\nmore")
        return Account(Cost(2, 1), 2)

    return Contender(name, 1, run, nullcontext)


def test_programs_run_in_turn_after_each_has_warmed_up():
    log: list[str] = []
    results = race.race([contender(name, log) for name in "ab"], 3, CPU)
    assert log == ["a", "b", *"ababab"]
    assert [len(each.seconds) for each in results] == [3, 3]
    assert results[0].account == Account(Cost(2, 1), 2)


def test_what_warms_a_program_is_not_timed(monkeypatch):
    """Within its memory, before the clock of each round starts."""
    log: list[str] = []

    @contextmanager
    def memory():
        log.append("in")
        yield
        log.append("out")

    def clock(work, device):
        log.append("clock")
        work()
        return 1.0

    monkeypatch.setattr(race, "time_of", clock)
    timed = replace(contender("a", log), memory=memory, warm=lambda: log.append("warm"))
    (found,) = race.race([timed], 2, CPU)
    assert log == ["in", "a", "out", *["in", "warm", "clock", "a", "out"] * 2]
    assert found.seconds == [1.0, 1.0]


def test_a_program_that_cannot_is_left_out_with_its_reason():
    log: list[str] = []
    good, broken = race.race([contender("good", log), contender("broken", log)], 2, CPU)
    assert (good.error, broken.error) == ("", "no such layer")
    assert (len(good.seconds), broken.seconds) == (2, [])


def test_the_bare_model_is_warm_and_runs_for_a_second(monkeypatch):
    calls: list[int] = []
    bare = SimpleNamespace(gradient=lambda batch: calls.append(len(batch)))
    config = BenchConfig(ModelOptions(device="cpu"), ComputeOptions(), models=(), methods=(), metrics=())
    classifier = toys.classifier(toys.small_net(), preprocessing=Preprocessing.for_size(8))
    made = benchmark.Bench(config, classifier)._ceiling(bare, {"gradients": Best(4, {4: 16.0})}, "gradients")
    made.warm()
    assert calls == [4]
    made.run()
    assert calls == [4] + [4] * 4  # 16 rows a second
    assert made.images == 16


@pytest.fixture
def short(monkeypatch):
    """Two batch sizes and short runs of the bare model."""
    monkeypatch.setattr(ceiling, "CPU_SIZES", (1, 2))
    monkeypatch.setattr(benchmark, "LEAST_SECONDS", 0.001)


@pytest.fixture
def prescribed(monkeypatch):
    """Seconds of each program in a round: by its name, and by what its run is asked to do for the bare model."""
    seconds = {
        "gradients": [1.0, 1.0, 2.0],
        "forwards": [0.5, 0.5, 1.0],
        "xplain": [4.0, 5.0, 8.0],
        "other": [8.0, 20.0, 24.0],
    }
    monkeypatch.setattr(benchmark, "best_size", lambda work, x: benchmark.Best(4, {2: 8.0, 4: 16.0}))
    monkeypatch.setattr(benchmark, "LEAST_SECONDS", 0.1)
    real = race.race

    def prescribe(contenders, rounds, device):
        results = real(contenders, 0, device)
        for each in results:
            key = each.contender.program if each.contender.program in seconds else "other"
            each.seconds[:] = [] if each.error else seconds[key][:rounds]
        return results

    monkeypatch.setattr(benchmark, "race", prescribe)


def test_figures_follow_from_seconds_and_rows(xp, prescribed):
    ran = xp("bench", *TINY, "-a", "agi:steps=2,classes=3,step_size=1e-6", "--images", 2, "--repeats", 3,
             "--peer", "captum", "--json", "-q")  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    environment, bare, one, loop, two, loops = ran.records
    assert (environment["kind"], environment["repeats"], environment["images"]) == ("environment", 3, 2)
    assert environment["threads"] == torch.get_num_threads()
    assert bare["prepared"]["gradients"] == {"rows": 4, "rows_per_second": 16.0, "all": {"2": 8.0, "4": 16.0}}
    assert (one["program"], one["images"], loop["program"], two["images"]) == ("xplain", 1, "sequential loop", 2)
    # three classes, two steps: 6 forward rows and 12 backward rows an image, 3 rows a call; four rows of the bare model
    # take 1 s with and 0.5 s without gradients, so that these rows take 6/8 + 12/8 = 2.25 s
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


def test_a_batched_program_runs_at_its_default_and_at_its_best(xp, prescribed):
    pytest.importorskip("captum")
    ran = xp("bench", *TINY, "-a", "ig:steps=4", "--images", 2, "--repeats", 1, "--peer", "captum", "--json", "-q")
    assert [(r["program"], r["images"], r["rows_asked"]) for r in ran.records[2:]] == [
        ("xplain", 1, None), ("captum", 1, None), ("captum", 1, 2), ("xplain", 2, None), ("captum", 2, 2),
    ]  # fmt: skip


def test_metrics_are_measured_against_the_bare_forward(xp, prescribed):
    ran = xp("bench", *TINY, "-a", "saliency", "-M", "insertion:steps=7", "--images", 1, "--repeats", 1, "--json", "-q")
    found = ran.records[-1]
    assert (found["metric"], found["label"], found["forwards"], found["backwards"]) == (
        "insertion",
        "insertion:steps=7",
        8,
        0,
    )
    assert found["gradient_rows_per_second"] is None
    assert found["efficiency"]["median"] == pytest.approx(
        8 / 8 / 4
    )  # 8 rows of the bare forward take 1 s, these took 4


def test_tables_and_files(xp, prescribed, tmp_path):
    ran = xp("bench", *TINY, "-a", "saliency", "-a", "random", "--images", 1, "--repeats", 1, "-o", "out")
    assert ran.code == 0
    assert (tmp_path / "out" / "bench.md").read_text() == ran.out
    assert "(trained, 32 x 32)" in ran.out
    assert "* as xplain prepares it: 16 gradients at 4, 16 forwards at 4" in ran.out
    assert (
        "| saliency | 1 | xplain | 0.25 (0.25 to 0.25) | 0.25 (0.25 to 0.25) | 0.25 (0.25 to 0.25) | 0.0625" in ran.out
    )
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())["records"]
    assert [each["kind"] for each in kept] == ["environment", "ceiling", "run", "run"]
    assert kept[-1]["efficiency"] is None  # random asks the model for nothing


def test_images_can_be_given(xp, prescribed, photos):
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
def test_wrong_use_is_one_line(xp, arguments, code, words):
    ran = xp("bench", *TINY, *arguments)
    assert (ran.code, ran.err.count("\n")) == (code, 1)
    assert words in ran.err


def test_a_method_that_does_not_fit_the_model_is_named(xp, short):
    ran = xp(
        "bench",
        "-m",
        "python:tests.helpers.factories:smooth",
        "--device",
        "cpu",
        "-a",
        "guided-backprop",
        "--images",
        1,
    )
    assert ran.code == 2
    assert "guided-backprop" in ran.err


def test_everything_is_timed_for_real(xp, short):
    ran = xp("bench", *TINY, "-a", "ig:steps=3", "--images", 2, "--repeats", 2, "--json")
    assert ran.code == 0
    one = ran.records[2]
    assert one["images_per_second"]["low"] <= one["images_per_second"]["median"] <= one["images_per_second"]["high"]
    assert len(one["seconds"]) == 2
    assert "measured integrated-gradients:steps=3 of python:tests.helpers.factories:tiny, images: 1, xplain" in ran.err


def test_what_is_measured_is_on_disk_before_the_next_is(xp, prescribed, tmp_path, monkeypatch):
    """A run that is cut off keeps its figures."""
    real = benchmark.race

    def race_until_ig(contenders, rounds, device):
        if (tmp_path / "out" / "bench.json").exists() and len(kept()) == 3:
            raise KeyboardInterrupt
        return real(contenders, rounds, device)

    def kept() -> list[dict]:
        return json.loads((tmp_path / "out" / "bench.json").read_text())["records"]

    monkeypatch.setattr(benchmark, "race", race_until_ig)
    ran = xp("bench", *TINY, "-a", "saliency", "-a", "ig:steps=2", "--images", 1, "--repeats", 1, "-o", "out")
    assert ran.code == 130
    assert [each.get("label") for each in kept()] == [None, None, "saliency"]
    assert "| saliency | 1 | xplain |" in (tmp_path / "out" / "bench.md").read_text()


def test_other_precisions_are_held_against_float32(xp, short):
    arguments = ("-a", "saliency", "-M", "insertion:steps=3", "--images", 2, "--repeats", 1)
    ran = xp("bench", *LITE, *arguments, "--precision", "bf16", "--json", "-q")
    _, _, one, two, _, metric = ran.records
    assert one["agreement_with_fp32"] is None  # of all images, once
    found = two["agreement_with_fp32"]
    model = xplain.load_classifier("efficientnet-lite0", "cpu")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact, rough = (xplain.attribute(model, images, "saliency", precision=p).values for p in ("fp32", "bf16"))
    lowest = torch.cosine_similarity(exact.flatten(1), rough.flatten(1)).min()
    assert found["cosine"] == pytest.approx(float(lowest), abs=1e-5)
    ranks = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(exact, rough, strict=True)]
    assert found["spearman"] == pytest.approx(min(ranks), abs=1e-5)
    assert 0.5 < found["spearman"] < 1
    assert 0 < metric["agreement_with_fp32"]["largest_difference"] < 0.05


def test_a_table_has_a_column_for_the_agreement_only_where_there_is_one(xp, short):
    arguments = ("bench", *LITE, "-a", "saliency", "--images", 1, "--repeats", 1, "-q")
    assert "against fp32" not in xp(*arguments).out
    assert "| against fp32 |" in xp(*arguments, "--precision", "bf16").out
    assert xp(*arguments, "--precision", "bf16").out.splitlines()[-1].split("|")[-2].startswith(" cosine 0.")
