"""Stability of attributions in the library: plans, records, undefined sources and independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.core.options import ComputeOptions
from xplain.core.registry import METHODS
from xplain.core.stability import Look, SourceStability
from xplain.oracle import Oracle
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.stability import Plan, with_stability

CLASSIFIER, _ = toys.with_pixels(toys.small_net(1, scale=15.0).float())
X = toys.images(3).float()


@pytest.mark.parametrize(
    ("rows", "has_draws", "has_halves", "expected"),
    [  # draws, rounding, float64, noise, rows spent
        (1, False, False, (4, False, False, 1, 2)),
        (1, True, False, (1, True, False, 0, 2)),
        (20, True, True, (0, False, False, 1, 21)),
        (20, True, False, (1, False, False, 0, 20)),
        (50, False, False, (4, False, False, 1, 51)),
        (4000, True, False, (1, False, False, 0, 4000)),
        (0, True, False, (4, True, True, 1, 1)),
        (0, False, False, (4, True, True, 1, 1)),
    ],
)
def test_quick_plan_at_most_doubles_the_rows(rows, has_draws, has_halves, expected):
    """A method of c rows and the prediction take c + 1."""
    plan = Plan("quick", rows, has_draws=has_draws, has_halves=has_halves)
    assert (plan.draws, plan.rounding, plan.precise, plan.noise, plan.spent) == expected
    full = Plan("full", rows, has_draws=True, has_halves=has_halves)
    assert (full.draws, full.rounding, full.precise, full.noise, full.spent) == (4, True, True, 4, 10 * rows + 4)


def test_record_of_full_stability():
    attribution = xplain.attribute(CLASSIFIER, X, "neflag", samples=2, stability="full")
    draws, noise = attribution.stability.sources["draws"], attribution.stability.sources["noise"]
    assert isinstance(draws, SourceStability)
    record = attribution.stability.describe(1)
    assert list(record) == [
        *(
            "level",
            "figure",
            "source",
            "chance",
            "kappa",
            "draws",
            "rounding",
            "noise",
            "reasons",
            "marks",
            "look",
            "rows",
            "warnings",
        ),
    ]
    means = {name: record[name]["top10"] for name in ("draws", "rounding", "noise")}
    assert record["figure"] == min(means.values()) == means[record["source"]]
    assert record["kappa"] == pytest.approx((record["figure"] - 0.1) / 0.9, abs=1e-4)
    assert record["draws"]["top10"] == pytest.approx(float(draws.overlaps[1].mean()), abs=1e-4)
    assert record["draws"]["least"] == pytest.approx(float(draws.overlaps[1].min()), abs=1e-4)
    assert (record["draws"]["repeats"], record["noise"]["repeats"], record["rounding"]["repeats"]) == (4, 4, 2)
    assert record["rounding"]["arithmetic"] == ["float64", "one row per call"]
    assert (record["noise"]["radius"], record["noise"]["kept"]) == (0.00392, int(noise.kept[1].sum()))
    assert (record["rows"], record["reasons"], record["look"]) == (24, {}, "sum, signed")
    plain = xplain.attribute(CLASSIFIER, X, "neflag", samples=2)
    assert (plain.stability, plain.cost.forwards) == (None, attribution.cost.forwards)
    assert torch.equal(plain.values, attribution.values)


@pytest.mark.parametrize("metric", ["draws", "rounding", "noise"])
def test_metrics_agree_with_full_stability(metric):
    attribution = xplain.attribute(CLASSIFIER, X, "smoothgrad", samples=2, stability="full")
    score = xplain.measure(
        CLASSIFIER,
        X,
        attribution.values,
        f"stability-{metric}",
        target=attribution.target,
        method="smoothgrad:samples=2",
    )
    assert score.values.tolist() == attribution.stability.sources[metric].top10.tolist()


def test_stability_is_independent_of_batch():
    together = xplain.attribute(CLASSIFIER, X, "neflag", samples=3, stability="full", batch_size=4).stability
    for i in range(3):
        alone = xplain.attribute(CLASSIFIER, X[i : i + 1], "neflag", samples=3, stability="full").stability
        assert {**alone.describe(0), "rows": 0} == {**together.describe(i), "rows": 0}


def test_quick_stability_names_what_is_missing():
    attribution = xplain.attribute(CLASSIFIER, X[:1], "ig", stability="quick")
    record = attribution.stability.describe(0)
    assert (record["draws"]["constant"], record["draws"]["repeats"], record["rounding"]) == (True, 4, None)
    assert record["reasons"] == {"rounding": "not measured: it does not fit into the rows of quick; full measures it"}
    assert record["rows"] == 50 + 2 + 1  # with the end points of the path, which are checks, and the prediction


def test_random_map_is_unstable():
    record = xplain.attribute(CLASSIFIER, X, "random", stability="full").stability.describe(0)
    assert record["source"] == "draws"
    assert record["warnings"] == [f"unstable: stability {record['figure']:.2f} (draws)"]
    assert (record["rounding"]["top10"], record["noise"]["top10"], record["noise"]["constant"]) == (1, 1, True)


def test_zero_map_has_no_figure():
    dark = toys.classifier(toys.Function(lambda x: torch.relu(x.sum(dim=(2, 3))[:, :2] - 1e6)))
    with torch.random.fork_rng():
        attribution = xplain.attribute(dark, X[:1].double(), "saliency", target=0, stability="full")
    record = attribution.stability.describe(0)
    assert (record["figure"], record["source"], record["kappa"], record["warnings"]) == (None, None, None, [])
    assert {record[name]["undefined"] for name in ("draws", "rounding", "noise")} == {"the map is zero"}
    assert math.isnan(float(attribution.stability.sources["draws"].top10))


def test_contrast_classes_are_held():
    """A linear network has the same map for fixed contrast classes."""
    linear = toys.classifier(toys.Linear(torch.randn((4, 3, 8, 10), generator=torch.Generator().manual_seed(0))))
    for options in ({"score": "contrast"}, {"against": [2, 3]}):
        attribution = xplain.attribute(linear, X, "saliency", target=0, stability="full", **options)
        assert [attribution.stability.figure(i) for i in range(3)] == [(1.0, "draws")] * 3


def test_rounding_repeats_run_rows_alone_without_folding(monkeypatch):
    """The method runs once as reported, once in float64, and once with one row per call on the network as it is."""
    calls = []
    forward = Oracle.forward

    def record_call(self, model, x):
        calls.append((len(x), x.dtype, self.fold))
        return forward(self, model, x)

    attribution = xplain.attribute(CLASSIFIER, X[:2], "saliency")
    monkeypatch.setattr(Oracle, "forward", record_call)
    xplain.measure(
        CLASSIFIER, X[:2], attribution.values, "stability-rounding", target=attribution.target, method="saliency"
    )
    prediction, *repeats = calls
    assert prediction[0] == 2
    assert repeats == [(2, torch.float64, True), (1, torch.float32, False), (1, torch.float32, False)]


def test_unknown_level_is_refused():
    with pytest.raises(xplain.XplainError, match="unknown value 'fast' for stability; choose from off, quick, full"):
        xplain.attribute(CLASSIFIER, X, "saliency", stability="fast")


def test_marks_are_the_votes_of_all_maps():
    """Each repeat that ran votes for its highest tenth; a method without draws has no votes by construction."""
    stability = xplain.attribute(CLASSIFIER, X, "saliency", stability="full").stability
    reported = xplain.attribute(CLASSIFIER, X, "saliency").values
    marks = stability.marks(1)
    noise, rounding = stability.sources["noise"], stability.sources["rounding"]
    assert stability.sources["draws"].votes is None
    assert marks.repeats == {"rounding": 2, "noise": int(noise.kept[1].sum())}
    assert marks.maps == 1 + 2 + int(noise.kept[1].sum())
    top = torch.zeros(80, dtype=torch.float64)
    top[reported[1].sum(dim=0).flatten().argsort(descending=True)[:8]] = 1
    votes = top.reshape(8, 10) + noise.votes[1] + rounding.votes[1]
    assert int(votes.sum()) == 8 * marks.maps
    toys.assert_same(marks.shares.double(), votes / marks.maps, rtol=1e-6)
    entry = stability.describe(1)["marks"]
    core = int((votes == marks.maps).sum())
    assert (entry["core"], entry["always"]) == (core / 8, core / 80)
    assert entry["not_always"] == pytest.approx(int((votes > 0).sum() - core) / 80)
    assert int((marks.mostly & marks.sometimes).sum()) == 0
    assert bool((marks.mostly | marks.sometimes | (marks.shares == 0)).all())


def test_core_of_random_maps():
    """A pixel is in all of M independent maps with probability 0.1^M; the draws of the repeats of rounding and noise are held."""
    x = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    large = toys.classifier(toys.Function(lambda images: images.sum(dim=(2, 3))[:, :2]))
    entry = xplain.attribute(large, x, "random", target=0, stability="full").stability.describe(0)
    assert entry["marks"]["maps"] == 1 + 4 + 1 + 4
    assert entry["marks"]["core"] == 0
    shares = xplain.attribute(large, x, "random", target=0, stability="full").stability.sources["draws"].votes / 4
    assert float(shares.double().mean()) == pytest.approx(0.1, abs=1e-3)


def test_quick_compares_halves_only_if_the_look_is_linear():
    attribution = xplain.attribute(CLASSIFIER, X, "smoothgrad", samples=6)
    run = MethodRun.resolve(METHODS.get("smoothgrad"), {"samples": 6}, CLASSIFIER.preprocessing)
    logits = CLASSIFIER(X)
    for look, estimated in ((Look("mean", "negative"), True), (Look("sum", "absolute"), False)):
        result = with_stability(
            run, CLASSIFIER, X, attribution, ComputeOptions(), "quick", logits=logits, look=look
        ).stability
        record = result.describe(0)
        assert (record["draws"]["repeats"], "estimated" in record["draws"]) == (0 if estimated else 1, estimated)
        assert (record["noise"] is None) == (not estimated)
        assert record["look"] == str(look)
