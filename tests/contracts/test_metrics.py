"""What every metric must keep to, whichever it is: tests over the registry."""

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
from xplain.core.registry import METRICS, MetricSpec
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle
from xplain.pipelines.attribution import Runtime, run_metric

# those that train networks or need annotations are met in their own tests
SPECS = [spec for spec in METRICS if spec.scope == "image" and "boxes" not in spec.parameters]
# on images of 8 x 10 random pixels and a model that is never sure
SETTINGS = {
    "sensitivity-n": {"fractions": "20+60"},
    "aic": {"thresholds": "5+30+60", "min_probability": 0},
    "sic": {"thresholds": "5+30+60", "min_probability": 0},
    "infidelity": {"score": "logit"},
    "parameter-randomisation": {"stages": 3},  # the layers that the network has
}
FEW = {"aic", "sic"}  # one pixel in a hundred is drawn: none of 80
X = toys.images(3)
CLASSIFIER, LOGITS = toys.with_pixels(toys.small_net(1, scale=15.0))
TARGETS = LOGITS(X).argmax(dim=1).tolist()

every_metric = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def settings(spec: MetricSpec) -> dict[str, object]:
    return quick(spec) | SETTINGS.get(spec.name, {})


@lru_cache
def maps() -> Tensor:
    return xplain.attribute(CLASSIFIER, X, "saliency", target=TARGETS).values


def measured(spec: MetricSpec, some: slice = slice(None), **options) -> xplain.Score:
    options = {"target": TARGETS[some], "method": "saliency"} | settings(spec) | options
    return xplain.measure(CLASSIFIER, X[some], maps()[some], spec.name, **options)


@lru_cache
def usual(name: str) -> xplain.Score:
    """What most tests compare with."""
    return measured(METRICS.get(name))


def assert_equal(found: xplain.Score, expected: xplain.Score, some: slice = slice(None)) -> None:
    """The same values and curves, undefined for the same reasons."""
    toys.assert_same(found.values.nan_to_num(-7), expected.values[some].nan_to_num(-7))
    assert (found.curve is None) == (expected.curve is None)
    if found.curve is not None:
        toys.assert_same(found.curve.nan_to_num(-7), expected.curve[some].nan_to_num(-7))
    reasons, others = (
        {reason: mask.tolist() for reason, mask in masks.items() if mask.any()}
        for masks in (found.undefined, {reason: mask[some] for reason, mask in expected.undefined.items()})
    )
    assert reasons == others


# ------------------------------------------------------------------------------------------------- results


@every_metric
def test_gives_one_value_an_image_within_its_bounds_or_says_why_not(spec):
    found = usual(spec.name)
    assert found.values.shape == (3,)
    assert found.values.is_floating_point()
    low, high = spec.bounds
    defined = found.values[~found.values.isnan()]
    assert ((defined >= low - 1e-12) & (defined <= high + 1e-12)).all()
    assert found.curve is None or (found.curve.ndim == 2 and len(found.curve) == 3)
    assert all(mask.dtype == torch.bool and mask.shape == (3,) for mask in found.undefined.values())
    why = torch.stack([torch.zeros(3, dtype=torch.bool), *found.undefined.values()]).any(dim=0)
    assert why.tolist() == found.values.isnan().tolist()
    if "completeness" not in spec.undefined and spec.name not in FEW:
        assert len(defined) >= 1


@every_metric
def test_says_what_it_is(spec):
    assert spec.paper is not None
    assert spec.paper.url
    assert spec.version >= 1
    assert spec.unit
    assert spec.undefined
    assert spec.bounds[0] < spec.bounds[1]
    assert spec.summary.endswith(".")
    assert len(spec.summary) < 140


@every_metric
def test_values_that_are_never_undefined_are_finite(spec):
    if spec.undefined == "never":
        assert usual(spec.name).values.isfinite().all()
        assert not usual(spec.name).undefined


@every_metric
def test_the_same_seed_gives_the_same_bytes(spec):
    again = measured(spec)
    assert again.values.numpy().tobytes() == usual(spec.name).values.numpy().tobytes()


@every_metric
def test_another_seed_gives_another_value_only_to_metrics_that_draw(spec):
    other = measured(spec, seed=1)
    if not spec.needs & {"rng", "seed"}:
        assert torch.equal(other.values.nan_to_num(-7), usual(spec.name).values.nan_to_num(-7))
    elif spec.name not in FEW:
        assert not torch.equal(other.values.nan_to_num(-7), usual(spec.name).values.nan_to_num(-7))


# ------------------------------------------------------------------------------------------------- batches


@every_metric
def test_a_batch_equals_its_images_one_by_one(spec):
    for i in range(3):
        some = slice(i, i + 1)
        assert_equal(measured(spec, some), usual(spec.name), some)


@every_metric
@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_rows_a_call_change_nothing(spec, batch_size):
    found = measured(spec, batch_size=batch_size)
    assert_equal(found, usual(spec.name))
    assert found.cost.forwards == usual(spec.name).cost.forwards


@every_metric
def test_images_and_maps_stay_as_they_were(spec):
    images, given = X.clone(), maps().clone()
    measured(spec)
    assert torch.equal(X, images)
    assert torch.equal(maps(), given)


@every_metric
def test_float32_agrees_with_float64(spec):
    """To 1e-3: ranks and pictures in 8 bits are those of the same map. New weights are drawn in their own type."""
    if spec.name == "parameter-randomisation":
        return
    single, _ = toys.with_pixels(toys.small_net(1, scale=15.0).float())
    options = {"target": TARGETS, "method": "saliency"} | settings(spec)
    exact, rough = (x.float().double() for x in (X, maps()))
    found = xplain.measure(single, exact.float(), rough.float(), spec.name, **options).values.double()
    expected = xplain.measure(CLASSIFIER, exact, rough, spec.name, **options).values.double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)


CURVES = [{"steps": 3}, {"baseline": "mean"}, {"unit": "scalar"}, {"area": "mean"}]
IMPUTED = [{"percentiles": "20+60"}, {"noise": 0.3}, {"score": "logit"}]
PICTURES = [{"thresholds": "20+50"}, {"order": "absolute"}]
KEPT = {
    "deletion": CURVES,
    "insertion": CURVES,
    "lerf": [CURVES[0], {"baseline": "black"}, CURVES[2]],
    "road": IMPUTED,
    "road-morf": IMPUTED,
    "sic": PICTURES,
}


@pytest.mark.parametrize(("name", "variants"), KEPT.items(), ids=KEPT)
def test_what_metrics_of_one_run_keep_for_one_another_is_kept_by_all_that_changes_it(name, variants):
    spec = METRICS.get(name)
    inputs = MetricInput(Oracle(CLASSIFIER, score="prob"), X, maps(), torch.tensor(TARGETS))
    for options in ({}, *variants):
        found = run_metric(spec, spec.resolve(settings(spec) | options), inputs, Runtime())
        assert_equal(found, measured(spec, **options))
        assert not options or not torch.equal(found.values, usual(name).values)


# ------------------------------------------------------------------------------------------------- cost


@every_metric
def test_rows_counted_are_rows_claimed(spec):
    """Metrics that attribute again run saliency, of one row."""
    claimed = spec.resolve(settings(spec))
    rows = spec.forwards(side=10, **claimed) + spec.attributions(**claimed)
    assert usual(spec.name).cost.forwards == 3 * rows


# ------------------------------------------------------------------------------------------------- the command line


def test_all_run_from_evaluate_with_the_values_of_the_library(xp, photos, tmp_path):
    asked = {}
    for spec in SPECS:
        params = ",".join(f"{key}={value}" for key, value in settings(spec).items())
        asked[spec.name] = f"{spec.name}:{params}" if params else spec.name
    ran = xp("evaluate", photos, *TINY, "-a", "saliency", *(p for m in asked.values() for p in ("-M", m)), "-o", "run")
    assert ran.code in (0, 5), ran.err
    lines = [json.loads(line) for path in sorted(tmp_path.glob("run/items/*.jsonl")) for line in path.open()]
    values = {(each["metric"], each["key"]): each for each in lines if each.get("method") == "saliency"}
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    keys = sorted({key for _, key in values})
    assert len(keys) == 3
    images = torch.stack([xplain.read_image(photos / key, size=32) for key in keys]).double()
    given = xplain.attribute(classifier, images, "saliency").values
    for spec in SPECS:
        if "completeness" in spec.undefined:  # measure knows no end points
            continue
        expected = xplain.measure(classifier, images, given, spec.name, method="saliency", **settings(spec))
        for i, key in enumerate(keys):
            record = values[asked[spec.name], key]
            assert (record["value"] is None) == bool(expected.values[i].isnan())
            if record["value"] is None:
                assert bool(expected.undefined[record["undefined"]][i])
            else:
                assert record["value"] == pytest.approx(float(expected.values[i]), rel=1e-6, abs=1e-9)
