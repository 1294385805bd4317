"""Metrics of labels, one logit and values."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import linear, value, with_output
from xplain.core.errors import UsageError
from xplain.core.registry import METRICS
from xplain.pipelines.metric_run import MetricRun

X = toys.images(3)
MAPS = torch.randn(3, 1, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
WEIGHT = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
RAW = torch.einsum("bchw,chw->b", X, WEIGHT)
BIAS = 0.5
CURVES = ("deletion", "insertion", "morf", "lerf")


def measure(net, activation, metric, target=0, classes=None, threshold=None, **options):
    classifier = with_output(net, activation, classes, threshold=threshold)
    return xplain.measure(classifier, X, MAPS, metric, target=target, **options)


@pytest.mark.parametrize("metric", CURVES)
def test_curves_of_both_classes_of_one_logit_sum_to_one(metric):
    scores = [measure(linear(WEIGHT, BIAS), "binary", metric, target, steps=6) for target in (0, 1)]
    torch.testing.assert_close(scores[0].curve + scores[1].curve, torch.ones(3, 7, dtype=torch.float64))
    torch.testing.assert_close(scores[0].values + scores[1].values, torch.ones(3, dtype=torch.float64))
    assert scores[1].values.max() < 1


def test_curves_start_and_end_at_the_probabilities():
    curve = measure(linear(WEIGHT, BIAS), "binary", "deletion", 1, steps=4).curve
    torch.testing.assert_close(curve[:, 0], torch.sigmoid(RAW + BIAS))
    torch.testing.assert_close(curve[:, -1], torch.full((3,), BIAS, dtype=torch.float64).sigmoid())
    labels = toys.Linear(torch.stack([WEIGHT, 2 * WEIGHT]))
    curve = measure(labels, "sigmoid", "insertion", 1, steps=4).curve
    torch.testing.assert_close(curve[:, -1], torch.sigmoid(2 * RAW))
    assert curve[:, 0].tolist() == [0.5, 0.5, 0.5]


def test_difference_of_both_classes_of_one_logit_is_opposite():
    first, second = (measure(linear(WEIGHT, BIAS), "binary", "difference", y, steps=5).values for y in (0, 1))
    torch.testing.assert_close(first, -second)


def test_curves_of_values_are_values():
    score = measure(value(WEIGHT, BIAS), "none", "deletion", classes=1, steps=4)
    torch.testing.assert_close(score.curve[:, 0], RAW + BIAS)
    torch.testing.assert_close(score.curve[:, -1], torch.full((3,), BIAS, dtype=torch.float64))
    assert score.undefined == {}


@pytest.mark.parametrize("metric", CURVES)
def test_relative_curves_lie_between_baseline_and_image(metric):
    """(v - v') / (v(x) - v'), which does not depend on the scale and offset of the value."""
    options = {"classes": 1, "steps": 6, "baseline": "black"}
    plain = measure(value(WEIGHT, BIAS), "none", metric, **options)
    relative = measure(value(WEIGHT, BIAS), "none", metric, relative=True, **options)
    scaled = measure(value(-7 * WEIGHT, 4 * BIAS), "none", metric, relative=True, **options)
    torch.testing.assert_close(relative.curve, (plain.curve - BIAS) / RAW[:, None])
    torch.testing.assert_close(relative.values, scaled.values)
    ends = [0.0, 1.0] if metric == "insertion" else [1.0, 0.0]
    assert relative.curve[:, [0, -1]].tolist() == pytest.approx([pytest.approx(ends, abs=1e-12)] * 3)


def test_relative_curves_of_two_baselines_are_scaled_before_the_mean():
    options = {"classes": 1, "steps": 3, "relative": True}
    parts = [measure(value(WEIGHT), "none", "deletion", baseline=kind, **options).curve for kind in ("black", "blur")]
    both = measure(value(WEIGHT), "none", "deletion", baseline="black+blur", **options).curve
    torch.testing.assert_close(both, (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("metric", [*CURVES, "difference"])
def test_relative_is_undefined_without_a_range(metric):
    score = measure(value(0 * WEIGHT, BIAS), "none", metric, classes=1, steps=3, relative=True)
    assert score.values.isnan().all()
    assert score.undefined["the image and the baseline have the same value"].tolist() == [True] * 3


def test_settings_are_described_without_relative_at_its_default():
    run = MetricRun.resolve(METRICS.get("deletion"), {})
    assert "relative" not in run.describe()["params"]
    assert MetricRun.resolve(METRICS.get("deletion"), {"relative": "true"}).describe()["params"]["relative"] is True


@pytest.mark.parametrize(
    ("metric", "unit"),
    [("deletion", "mean value"), ("road", "value"), ("sic", "area under value by information"), ("aic", None)],
)
def test_unit_of_values(metric, unit):
    run = MetricRun.resolve(METRICS.get(metric), {})
    output = with_output(value(WEIGHT), "none").output
    assert run.for_output(output).describe()["unit"] == (unit or METRICS.get(metric).unit)
    assert run.for_output(with_output(value(WEIGHT), "binary").output) is run


@pytest.mark.parametrize("metric", ["road", "road-morf", "road-lerf"])
def test_road_averages_values(metric):
    plain = measure(value(WEIGHT, BIAS), "none", metric, classes=1, percentiles="50")
    logits = measure(value(WEIGHT, BIAS), "none", metric, classes=1, percentiles="50", score="logit")
    assert torch.equal(plain.values, logits.values)
    with pytest.raises(UsageError, match=r"^score=log-prob is not defined, because the model returns values, "):
        measure(value(WEIGHT, BIAS), "none", metric, classes=1, percentiles="50", score="log-prob")


INFORMATION = {"thresholds": "20+60", "min_probability": 0}


def test_aic_follows_decisions():
    raw = torch.einsum("bchw,chw->b", (X * 255).round() / 255, WEIGHT)  # images are rounded to 8 bits
    bias = -float(raw.median()) + 0.01
    net = linear(WEIGHT, bias)
    for threshold in (0.5, 0.35, 0.65):
        edge = torch.tensor(threshold, dtype=torch.float64).logit()
        score = measure(net, "binary", "aic", 1, threshold=threshold, thresholds="20+60", min_probability=0.5)
        is_decided = raw + bias > edge
        low = score.undefined["the image is not classified as the target"]
        assert low.tolist() == (~is_decided).tolist()


def test_aic_of_values_requires_a_threshold():
    score = measure(value(WEIGHT), "none", "aic", classes=1, **INFORMATION)
    assert score.values.isnan().all()
    assert score.undefined["the model returns values without a threshold"].tolist() == [True] * 3
    bound = measure(value(WEIGHT), "none", "aic", classes=1, threshold=99.0, thresholds="20", min_probability=0.5)
    assert bound.undefined["the image is not classified as the target"].tolist() == [True] * 3


def test_sic_of_labels_and_values():
    labels = toys.Linear(torch.stack([WEIGHT, WEIGHT, WEIGHT]))
    score = measure(labels, "sigmoid", "sic", 1, thresholds="20+60", min_probability=0.5)
    low = score.undefined["the target's probability is below min_probability"]
    rounded = torch.einsum("bchw,chw->b", (X * 255).round() / 255, WEIGHT)
    assert low.tolist() == (rounded < 0).tolist()
    values = measure(value(WEIGHT, -50.0), "none", "sic", classes=1, thresholds="20+60", min_probability=0.9)
    assert not values.undefined["the target's probability is below min_probability"].any()
    assert "the target's value is not lower for the blurred image" in values.undefined


def test_label_randomisation_takes_the_other_class():
    classifier = with_output(linear(WEIGHT, BIAS), "binary", 2)
    maps = xplain.attribute(classifier, X, "saliency", target=1).values
    score = xplain.measure(classifier, X, maps, "label-randomisation", target=1, method="saliency")
    assert score.values.tolist() == pytest.approx([-1.0] * 3)


def test_label_randomisation_of_one_value_is_undefined():
    score = measure(value(WEIGHT), "none", "label-randomisation", classes=1, method="saliency")
    assert score.values.isnan().all()
    assert score.undefined["the model has one output"].tolist() == [True] * 3


def test_infidelity_explains_the_value_of_methods_with_probabilities():
    classifier = with_output(value(WEIGHT), "none", 1)
    maps = xplain.attribute(classifier, X, "neflag", score="logit", samples=2).values
    scores = [
        xplain.measure(classifier, X, maps, "infidelity", method="neflag", perturbations=5, score=score).values
        for score in ("auto", "logit")
    ]
    assert torch.equal(*scores)
