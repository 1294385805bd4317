"""Grades of metrics: right ones are recognized and wrong ones are caught. The wrong ones are not registered."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from xplain.core.config import Choice
from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions
from xplain.core.registry import METRICS, MetricSpec
from xplain.core.types import Score
from xplain.known import MECHANISMS, Planted
from xplain.metrics.inputs import MetricInput
from xplain.models import Classifier
from xplain.pipelines.known_grades import check_gradable, grade_metric
from xplain.pipelines.known_truth import make_classifier
from xplain.pipelines.measurement import resolve_metrics
from xplain.pipelines.metric_run import MetricRun
from xplain.reports.known_metrics import GradeResults

NAMES = ("linear-sparse", "gate", "and", "saturated", "product", "rivals", "colour")


@cache
def planted(name: str) -> tuple[Planted, Classifier]:
    made = MECHANISMS[name].plant(0, 0)
    return made, make_classifier(made, name)


def wrong(name: str, measure: Callable[[MetricInput], Tensor], better: str = "higher") -> MetricRun:
    """Return a metric that is not registered."""

    def function(inputs: MetricInput) -> Score:
        return Score(measure(inputs).double())

    return MetricRun.resolve(MetricSpec(name=name, function=function, better=better), {})


def registered(text: str) -> MetricRun:
    (metric,) = resolve_metrics(None, (Choice.parse(text),))
    return metric


def deletion_effect(inputs: MetricInput) -> Tensor:
    """Return how much the target's probability falls when the highest eighth of the pixels becomes black."""
    sums = inputs.attributions.sum(dim=1, keepdim=True)
    cut = sums.flatten(1).topk(128).values[:, -1][:, None, None, None]
    kept = torch.where(sums >= cut, torch.zeros_like(inputs.images), inputs.images)
    return inputs.oracle.scores(inputs.images, inputs.y) - inputs.oracle.scores(kept, inputs.y)


def roughness(inputs: MetricInput) -> Tensor:
    maps = inputs.attributions[:, 0]
    return (maps[:, 1:] - maps[:, :-1]).abs().sum(dim=(1, 2)) + (maps[:, :, 1:] - maps[:, :, :-1]).abs().sum(dim=(1, 2))


def centrality(inputs: MetricInput) -> Tensor:
    axis = torch.linspace(-1, 1, 32)
    return -(inputs.attributions[:, 0] * torch.hypot(axis[:, None], axis)).flatten(1).sum(dim=1)


def digest(inputs: MetricInput) -> Tensor:
    """Return a number that depends on the bytes of the map, without order."""
    return torch.sin(1e4 * inputs.attributions.double().flatten(1) @ torch.linspace(1, 2, 1024, dtype=torch.float64))


WRONG = {
    "constant": wrong("constant", lambda inputs: torch.ones(len(inputs.attributions))),
    "digest": wrong("digest", digest),
    "reversed": wrong("reversed", deletion_effect, better="lower"),
    "roughness": wrong("roughness", roughness),
    "centrality": wrong("centrality", centrality),
}


def grade(*metrics: MetricRun, names: tuple[str, ...] = NAMES, images: int = 2) -> dict[str, dict[str, Any]]:
    results = GradeResults()
    for name in names:
        truth, classifier = planted(name)
        for metric in metrics:
            for i in range(images):
                grades = grade_metric(metric, classifier, truth, i, f"{name}/{i}", ComputeOptions())
                results.add({"key": f"{name}/{i}", "metric": metric.label, **grades})
    rows = results.summarize({metric.label: metric.describe() for metric in metrics})
    return {row["metric"]: row for row in rows}


@cache
def graded() -> dict[str, dict[str, Any]]:
    right = wrong("effect", deletion_effect)
    return grade(right, registered("relevance-auroc"), registered("deletion:steps=32"), *WRONG.values())


def test_right_metrics_pass():
    rows = graded()
    for label, least in (("effect", 0.65), ("relevance-auroc", 0.97), ("deletion:steps=32", 0.85)):
        row = rows[label]
        assert row["grade"]["mean"] > least
        assert row["grade"]["low"] > 0.5
        assert row["p_holm"] == pytest.approx(8 * 2 / 2**7)  # the largest of 8 p values of 7 equal signs
        assert row["controls"]["reversed"] > 0.9
        assert row["units"] == "mechanisms"
    assert rows["relevance-auroc"]["resolution"] == 0.1


def test_wrong_metrics_are_caught():
    rows = graded()
    assert rows["constant"]["grade"]["mean"] == 0.5
    assert rows["digest"]["grade"]["mean"] == pytest.approx(0.5, abs=0.12)
    assert rows["effect"]["grade"]["mean"] + rows["reversed"]["grade"]["mean"] == pytest.approx(1)
    for label in ("constant", "digest", "reversed", "roughness", "centrality"):
        assert not rows[label]["verdict"].startswith("prefers better maps"), (label, rows[label]["verdict"])
        assert rows[label]["resolution"] is None
    assert rows["roughness"]["bias"]["smooth"]["mean"] == -0.5
    assert rows["constant"]["bias"]["smooth"]["mean"] == 0


def test_verdict_names_reversed_and_biased_metrics():
    """Ten mechanisms are enough for a significant reversal after Holm's correction."""
    metrics = [wrong("reversed", deletion_effect, better="lower"), registered("relevance-mass")]
    rows = grade(*metrics, names=(*NAMES, "linear-graded", "min", "rewritten"), images=1)
    assert rows["reversed"]["verdict"] == "prefers worse maps"
    assert rows["relevance-mass"]["verdict"] == "prefers better maps; prefers sparse tail to dense tail"
    assert rows["relevance-mass"]["bias"]["dense"] == {
        "mean": -0.5,
        "low": -0.5,
        "high": -0.5,
        "n": 10,
        "prefers": "dense tail to sparse tail",
    }


def test_unsigned_metrics_are_not_graded_on_signs():
    unsigned = wrong("unsigned", lambda inputs: inputs.attributions.abs().flatten(1).topk(16).values.sum(dim=1))
    row = grade(unsigned, names=("gate",))["unsigned"]
    assert row["by_kind"]["sign"] is None
    assert row["by_kind"]["miss"] is not None
    assert row["units"] == "images"


def test_undefined_values_are_counted_and_left_out():
    def measure(inputs: MetricInput) -> Tensor:
        values = inputs.attributions.flatten(1).topk(32).values.sum(dim=1).double()
        values[1:6] = torch.nan  # the rungs of swap
        return values

    row = grade(wrong("partial", measure), names=("and",))["partial"]
    assert (row["undefined"], row["maps"]) == (10, 70)
    assert row["by_kind"]["swap"] is None
    assert row["by_kind"]["miss"] == 1.0
    never = grade(wrong("never", lambda inputs: torch.full((len(inputs.attributions),), torch.nan)), names=("and",))
    assert never["never"]["verdict"] == "undefined"
    assert never["never"]["grade"]["mean"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label-randomisation", "label-randomisation requires the method of a map and cannot be graded on known truth"),
        ("completeness-gap", "completeness-gap requires the method of a map and cannot be graded on known truth"),
        ("roar", "roar trains networks on a data set and cannot be graded on known truth"),
        ("sparseness", "sparseness has no better direction and cannot be graded"),
    ],
)
def test_metrics_that_cannot_be_graded(text, message):
    with pytest.raises(UsageError) as caught:
        check_gradable(registered(text))
    assert str(caught.value) == f"{message}; choose a metric that evaluates maps, such as deletion"


def test_annotations_are_refused(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(UsageError) as caught:
        check_gradable(MetricRun.resolve(METRICS.get("relevance-mass"), {"masks": str(masks)}))
    assert str(caught.value) == "relevance-mass reads masks, but the relevant pixels are known; remove masks="


@cache
def graded_faults() -> dict[str, dict[str, Any]]:
    metrics = [registered(text) for text in FAULT_METRICS]
    return grade(*metrics, names=("linear-sparse", "inhibit"), images=1)


FAULT_METRICS = {
    "parameter-randomisation:stages=2": "weights",
    "smprt:stages=2,smooth=2": "weights",
    "emprt": "weights",
    "stability-draws": "draws",
    "max-sensitivity:samples=2": "noise",
    "ris": "noise",
    "ros": "noise",
    "stability-noise": "noise",
    "stability-rounding": "rounding",
}


@pytest.mark.parametrize(("text", "fault"), FAULT_METRICS.items())
def test_faults_of_methods_are_caught_by_the_metric_made_for_them(text, fault):
    row = graded_faults()[text]
    assert [kind for kind, value in row["by_kind"].items() if value is not None] == [fault]
    assert row["by_kind"][fault] > 0.8, row["by_kind"]
    assert row["undefined"] == 0


def test_differences_that_the_noise_of_the_maps_explains_are_ties():
    values = {"best": 1.0, **{f"miss {share:g}": 1 - 1e-7 * share for share in (0.1, 0.25, 0.5, 0.75, 1)}}
    results = GradeResults()
    results.add({"key": "and/0", "metric": "m", "values": values})
    (row,) = results.summarize({"m": {"better": "higher"}})
    assert row["by_kind"]["miss"] == 0.5
    results.add(
        {"key": "and/0", "metric": "m", "values": {name: value * 1e-3 - 1e-3 for name, value in values.items()}}
    )
    (row,) = results.summarize({"m": {"better": "higher"}})
    assert row["by_kind"]["miss"] == 1.0
