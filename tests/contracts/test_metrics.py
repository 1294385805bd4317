"""Properties that every registered metric must have."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import xplain
import xplain.pipelines.attribution
from tests.conftest import TINY
from tests.contracts import quick
from tests.helpers import toys
from xplain.core.options import ComputeOptions
from xplain.core.registry import METRICS, MetricSpec
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle
from xplain.pipelines.metric_run import MetricRun

# metrics that train networks or need annotations have their own tests
SPECS = [spec for spec in METRICS if spec.scope == "image" and "boxes" not in spec.parameters]
# for images of 8 x 10 random pixels and a model without confident predictions
SETTINGS = {
    "sensitivity-n": {"fractions": "20+60"},
    "aic": {"thresholds": "5+30+60", "min_probability": 0},
    "sic": {"thresholds": "5+30+60", "min_probability": 0},
    "infidelity": {"score": "logit"},
    "normalised-insertion": {"min_range": 1e-3},
    "normalised-deletion": {"min_range": 1e-3},
    "parameter-randomisation": {"stages": 3},  # the layers that the network has
    "smprt": {"stages": 3},
}
UPPER_BOUND = {"stability-draws", "stability-rounding"}  # saliency draws nothing, and the model is in float64
NO_DRAWS = {"aic", "sic"}  # draw 1 % of the pixels, which is none of 80
X = toys.images(3)
CLASSIFIER, LOGITS = toys.with_pixels(toys.small_net(1, scale=15.0))
TARGETS = LOGITS(X).argmax(dim=1).tolist()

every_metric = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def make_settings(spec: MetricSpec) -> dict[str, object]:
    return quick(spec) | SETTINGS.get(spec.name, {})


@lru_cache
def make_maps() -> Tensor:
    return xplain.attribute(CLASSIFIER, X, "saliency", target=TARGETS).values


def compute_score(spec: MetricSpec, rows: slice = slice(None), **options) -> xplain.Score:
    options = {"target": TARGETS[rows], "method": "saliency"} | make_settings(spec) | options
    return xplain.measure(CLASSIFIER, X[rows], make_maps()[rows], spec.name, **options)


@lru_cache
def compute_reference_score(name: str) -> xplain.Score:
    return compute_score(METRICS.get(name))


def assert_equal(actual: xplain.Score, expected: xplain.Score, rows: slice = slice(None)) -> None:
    """Assert equal values and curves, undefined for the same reasons."""
    toys.assert_same(actual.values.nan_to_num(-7), expected.values[rows].nan_to_num(-7))
    assert (actual.curve is None) == (expected.curve is None)
    if actual.curve is not None:
        toys.assert_same(actual.curve.nan_to_num(-7), expected.curve[rows].nan_to_num(-7))
    actual_reasons = {reason: mask.tolist() for reason, mask in actual.undefined.items() if mask.any()}
    expected_reasons = {reason: mask[rows].tolist() for reason, mask in expected.undefined.items() if mask[rows].any()}
    assert actual_reasons == expected_reasons


@every_metric
def test_metric_values_within_bounds(spec):
    score = compute_reference_score(spec.name)
    assert score.values.shape == (3,)
    assert score.values.is_floating_point()
    low, high = spec.bounds
    defined = score.values[~score.values.isnan()]
    assert ((defined >= low - 1e-12) & (defined <= high + 1e-12)).all()
    assert score.curve is None or (score.curve.ndim == 2 and len(score.curve) == 3)
    assert all(mask.dtype == torch.bool and mask.shape == (3,) for mask in score.undefined.values())
    has_reason = torch.stack([torch.zeros(3, dtype=torch.bool), *score.undefined.values()]).any(dim=0)
    assert has_reason.tolist() == score.values.isnan().tolist()
    if "completeness" not in spec.undefined and spec.name not in NO_DRAWS:
        assert len(defined) >= 1


@every_metric
def test_metric_describes_itself(spec):
    assert spec.paper is not None
    assert spec.paper.url
    assert spec.version >= 1
    assert spec.unit
    assert spec.undefined
    assert spec.bounds[0] < spec.bounds[1]
    assert spec.summary.endswith(".")
    assert len(spec.summary) < 140


@every_metric
def test_metric_defined_values_are_finite(spec):
    if spec.undefined == "never":
        assert compute_reference_score(spec.name).values.isfinite().all()
        assert not compute_reference_score(spec.name).undefined


@every_metric
def test_metric_is_deterministic(spec):
    again = compute_score(spec)
    assert again.values.numpy().tobytes() == compute_reference_score(spec.name).values.numpy().tobytes()


@every_metric
def test_metric_seed_changes_draws_only(spec):
    other = compute_score(spec, seed=1)
    if not spec.needs & {"rng", "seed"}:
        assert torch.equal(other.values.nan_to_num(-7), compute_reference_score(spec.name).values.nan_to_num(-7))
    elif spec.name not in NO_DRAWS:
        assert not torch.equal(other.values.nan_to_num(-7), compute_reference_score(spec.name).values.nan_to_num(-7))


@every_metric
def test_metric_is_independent_of_batch(spec):
    for i in range(3):
        row = slice(i, i + 1)
        assert_equal(compute_score(spec, row), compute_reference_score(spec.name), row)


@every_metric
@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_metric_ignores_batch_size(spec, batch_size):
    score = compute_score(spec, batch_size=batch_size)
    assert_equal(score, compute_reference_score(spec.name))
    assert score.cost.forwards == compute_reference_score(spec.name).cost.forwards


@every_metric
def test_metric_keeps_inputs_unchanged(spec):
    images, attributions = X.clone(), make_maps().clone()
    compute_score(spec)
    assert torch.equal(X, images)
    assert torch.equal(make_maps(), attributions)


@every_metric
def test_metric_float32_matches_float64(spec):
    """To 1e-3, since ranks and 8-bit images are those of the same map."""
    if spec.name in ("parameter-randomisation", "smprt", "emprt"):  # draw new weights in the dtype of the model
        return
    single, _ = toys.with_pixels(toys.small_net(1, scale=15.0).float())
    options = {"target": TARGETS, "method": "saliency"} | make_settings(spec)
    images, attributions = (x.float().double() for x in (X, make_maps()))
    score = xplain.measure(single, images.float(), attributions.float(), spec.name, **options).values.double()
    expected = xplain.measure(CLASSIFIER, images, attributions, spec.name, **options).values.double()
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-3, equal_nan=True)


CURVES = [{"steps": 3}, {"baseline": "mean"}, {"unit": "scalar"}, {"area": "mean"}]
IMPUTED = [{"percentiles": "20+60"}, {"noise": 0.3}, {"score": "logit"}]
PICTURES = [{"thresholds": "20+50"}, {"order": "absolute"}]
MASKED = [{"baseline": "black"}, {"sign": "positive"}]
CACHED = {
    "deletion": CURVES,
    "insertion": CURVES,
    "lerf": [CURVES[0], {"baseline": "black"}, CURVES[2]],
    "road": IMPUTED,
    "road-morf": IMPUTED,
    "sic": PICTURES,
    "average-drop": MASKED,
    "average-gain": MASKED,
    "normalised-deletion": [*CURVES[:3], {"min_range": 0.25}],
}


@pytest.mark.parametrize(("name", "variants"), CACHED.items(), ids=CACHED)
def test_metric_cache_respects_parameters(name, variants):
    spec = METRICS.get(name)
    inputs = MetricInput(Oracle(CLASSIFIER, score="prob"), X, make_maps(), torch.tensor(TARGETS))
    for options in ({}, *variants):
        score = MetricRun.resolve(spec, make_settings(spec) | options).measure(inputs, ComputeOptions())
        assert_equal(score, compute_score(spec, **options))
        assert not options or not torch.equal(score.values, compute_reference_score(name).values)


@every_metric
def test_metric_cost_matches_declaration(spec):
    """Metrics that run the method again run saliency, which takes one row."""
    params = spec.resolve(make_settings(spec))
    rows = spec.forwards(side=10, **params) + spec.attributions(**params)
    forwards = compute_reference_score(spec.name).cost.forwards
    if spec.name in UPPER_BOUND:
        assert 0 < forwards < 3 * rows
    else:
        assert forwards == 3 * rows


def test_evaluate_matches_measure(xp, photos, tmp_path):
    labels = {}
    for spec in SPECS:
        params = ",".join(f"{key}={value}" for key, value in make_settings(spec).items())
        labels[spec.name] = f"{spec.name}:{params}" if params else spec.name
    ran = xp(
        "evaluate",
        photos,
        *TINY,
        "-a",
        "saliency",
        *(p for label in labels.values() for p in ("-M", label)),
        "-o",
        "run",
    )
    assert ran.code in (0, 5), ran.err
    lines = [json.loads(line) for path in sorted(tmp_path.glob("run/items/*.jsonl")) for line in path.open()]
    records = {(line["metric"], line["key"]): line for line in lines if line.get("method") == "saliency"}
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    keys = sorted({key for _, key in records})
    assert len(keys) == 3
    images = torch.stack([xplain.read_image(photos / key, size=32) for key in keys]).double()
    attributions = xplain.attribute(classifier, images, "saliency").values
    for spec in SPECS:
        expected = xplain.measure(classifier, images, attributions, spec.name, method="saliency", **make_settings(spec))
        for i, key in enumerate(keys):
            record = records[labels[spec.name], key]
            assert (record["value"] is None) == bool(expected.values[i].isnan())
            if record["value"] is None:
                assert bool(expected.undefined[record["undefined"]][i])
            else:
                assert record["value"] == pytest.approx(float(expected.values[i]), rel=1e-6, abs=1e-9)
