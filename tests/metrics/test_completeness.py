"""Tests of the completeness metrics in the library: the expected sum comes from the named method."""

import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.pipelines.completeness_flags import GAP_FLAG

CLASSIFIER = toys.classifier(toys.small_net(1, scale=15.0))
X = toys.images(2)
COMPLETE = ["ig:steps=7", "mfaba", "agi:variant=paper,classes=2", "boundary-ig", "ig:baseline=uniform,steps=5"]


def attribute(text: str, **options) -> xplain.Attribution:
    name, _, params = text.partition(":")
    settings = dict(pair.split("=") for pair in params.split(",") if pair)
    return xplain.attribute(CLASSIFIER, X, name, **settings, **options)


@pytest.mark.parametrize("method", COMPLETE)
def test_completeness_gap_equals_gap_of_attribution(method):
    """Also for methods whose expected sum depends on random numbers or on the end of a path."""
    result = attribute(method, seed=3)
    options = {"method": method, "seed": 3}
    gap = xplain.measure(CLASSIFIER, X, result.values, "completeness-gap", **options)
    toys.assert_same(gap.values, result.gap.abs())
    relative = xplain.measure(CLASSIFIER, X, result.values, "completeness-gap", relative=True, **options)
    toys.assert_same(relative.values, result.gap.abs() / result.expected.abs())
    rate = xplain.measure(CLASSIFIER, X, result.values, "error-rate", **options)
    toys.assert_same(rate.values, (result.total / result.expected - 1).abs(), rtol=1e-7)
    assert not any(bool(mask.any()) for mask in (*gap.undefined.values(), *rate.undefined.values()))


def test_completeness_gap_of_halved_map_is_half_of_difference():
    """The metric judges the attributions that are passed, not those of the rerun."""
    result = attribute("ig")
    rate = xplain.measure(CLASSIFIER, X, result.values / 2, "error-rate", method="ig")
    toys.assert_same(rate.values, (result.total / 2 / result.expected - 1).abs())
    assert float((rate.values - 0.5).abs().max()) < 0.01


def test_completeness_gap_uses_target_and_counts_rows():
    result = attribute("ig:steps=7", target=3)
    score = xplain.measure(CLASSIFIER, X, result.values, "completeness-gap", target=3, method="ig:steps=7")
    toys.assert_same(score.values, result.gap.abs())
    assert (score.cost.forwards, score.cost.backwards, score.cost.checks) == (0, 14, 2 + 4 + 14)


@pytest.mark.parametrize("metric", ["completeness-gap", "error-rate"])
def test_completeness_metrics_name_reason_if_undefined(metric):
    values = attribute("saliency").values
    reasons = {
        "saliency": "the method does not satisfy completeness",
        None: "it is unknown what the attributions should sum to",
    }
    for method, reason in reasons.items():
        score = xplain.measure(CLASSIFIER, X, values, metric, method=method)
        assert score.values.isnan().all()
        assert {text for text, mask in score.undefined.items() if mask.all()} == {reason}


def test_gap_above_a_tenth_of_difference_is_flagged():
    """Slope s(t) = 1 + c t: one left node at black misses c / (2 + c) of the difference."""

    def classifier(c: float) -> xplain.Classifier:
        def logits(x):
            t = x.mean(dim=(1, 2, 3))
            return torch.stack([t + c * t**2 / 2, 0 * t], dim=1)

        return toys.classifier(toys.Function(logits))

    x = torch.ones(1, 3, 8, 10, dtype=torch.float64)
    for c, is_flagged in ((0.2, False), (0.24, True)):
        result = xplain.attribute(classifier(c), x, "ig", target=0, steps=1, rule="left")
        assert float(result.gap / result.expected) == pytest.approx(-c / (2 + c))
        assert result.flags[GAP_FLAG].tolist() == [is_flagged]
    assert GAP_FLAG not in xplain.attribute(classifier(0.24), x, "saliency").flags


def test_gap_flag_ignores_rounding_and_zero_maps():
    """Two equal images of opposite weights have no score difference; a flat image has a zero map with its own flag."""
    weight = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    classifier = toys.classifier(toys.Linear(weight))
    x = toys.images().float()
    weight_of_image = weight[0].flatten()
    flat = x.flatten(1)
    flat -= (flat @ weight_of_image)[:, None] * weight_of_image / weight_of_image.square().sum()
    with toys.any_range():
        result = xplain.attribute(classifier, flat.reshape(x.shape), "ig", target=0)
    assert float((result.gap.abs() / result.expected.abs()).max()) > 0.1
    assert result.flags[GAP_FLAG].tolist() == [False, False]
    step = toys.classifier(toys.Function(lambda x: (x.mean(dim=(1, 2, 3)) > 0.5)[:, None] + 0 * x.flatten(1)[:, :2]))
    result = xplain.attribute(step, torch.ones(1, 3, 8, 10, dtype=torch.float64), "ig", target=0)
    assert (float(result.expected), float(result.total)) == (1.0, 0.0)
    assert result.flags[GAP_FLAG].tolist() == [False]
