"""Normalized insertion and deletion against the curves they are made of, and in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import linear, value, with_output
from xplain.core.registry import METRICS
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle

X = toys.images(3)
MAPS = toys.images(3, seed=9) - 0.5
MODEL, LOGITS = toys.with_pixels(toys.small_net(1, scale=15.0))
TARGETS = LOGITS(X).argmax(dim=1).tolist()
WEIGHT = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs()
KINDS = ("insertion", "deletion")


def measure(kind: str, model=MODEL, images: Tensor = X, maps: Tensor = MAPS, target=TARGETS, **options) -> xplain.Score:
    return xplain.measure(model, images, maps, kind, target=target, **options)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_curve_is_scaled_to_its_ends(kind, clip):
    options = {"steps": 16, "baseline": "black"}
    score = measure(f"normalised-{kind}", clip=clip, min_range=0.2, **options)
    for i, curve in enumerate(measure(kind, **options).curve.tolist()):
        fill, image = (curve[0], curve[-1]) if kind == "insertion" else (curve[-1], curve[0])
        if image - fill < 0.2:
            assert score.values[i].isnan()
            continue
        scaled = [(point - fill) / (image - fill) for point in curve]
        if clip:
            scaled = [min(max(point, 0.0), 1.0) for point in scaled]
        assert score.curve[i].tolist() == pytest.approx(scaled, abs=1e-12)
        assert float(score.values[i]) == pytest.approx(float(np.trapezoid(scaled, dx=1 / 16)), abs=1e-12)
    assert score.values.isnan().tolist() == [True, False, False]
    assert score.cost.forwards == 3 * 17


def test_no_rows_beyond_those_of_the_plain_curve():
    oracle = Oracle(MODEL, score="prob")
    inputs = MetricInput(oracle, X, MAPS, torch.tensor(TARGETS))
    for kind in KINDS:
        METRICS.get(kind).function(inputs, steps=4)
        METRICS.get(f"normalised-{kind}").function(inputs, steps=4)
    assert oracle.cost.forwards == 2 * 3 * 5


def test_scale_and_offset_of_the_model_do_not_matter():
    """And insertion and deletion of an additive model are opposite: their areas sum to 1."""
    plain, scaled = (
        {
            kind: measure(f"normalised-{kind}", with_output(model, "none", 1), target=0, steps=80).values
            for kind in KINDS
        }
        for model in (value(WEIGHT), value(5 * WEIGHT, -30.0))
    )
    for kind in KINDS:
        toys.assert_same(scaled[kind], plain[kind])
    reverse = measure("normalised-insertion", with_output(value(WEIGHT), "none", 1), target=0, steps=80, maps=-MAPS)
    toys.assert_same(plain["deletion"], reverse.values)
    toys.assert_same(plain["insertion"] + plain["deletion"], torch.ones(3, dtype=torch.float64))


def test_one_pixel_decides():
    """The curve jumps with the first of 80 pixels, and the trapezoid counts half a step."""
    weight = torch.zeros(3, 8, 10, dtype=torch.float64)
    weight[1, 3, 4] = 1
    options = {"model": with_output(value(weight), "none", 1), "images": 0.5 + X / 2, "target": 0, "steps": 80}
    maps = weight.expand(3, -1, -1, -1)
    half = pytest.approx([0.5 / 80] * 3, abs=1e-12)
    assert (1 - measure("normalised-insertion", maps=maps, **options).values).tolist() == half
    assert measure("normalised-deletion", maps=maps, **options).values.tolist() == half


def test_two_baselines_are_scaled_before_the_mean():
    model = with_output(linear(WEIGHT / 10), "softmax", 2)
    options = {"model": model, "target": 1, "steps": 4, "min_range": 1e-9}
    bright = torch.full_like(X, 0.1)
    bright[:, :, 2:6, 3:7] = 0.9
    parts = [
        measure("normalised-deletion", images=bright, baseline=kind, **options).curve for kind in ("black", "blur")
    ]
    both = measure("normalised-deletion", images=bright, baseline="black+blur", **options)
    toys.assert_same(both.curve.nan_to_num(-7), ((parts[0] + parts[1]) / 2).nan_to_num(-7))
    assert both.cost.forwards == 2 * 3 * 5


def test_low_range_is_undefined():
    model = with_output(value(torch.full((3, 8, 10), 1 / 240, dtype=torch.float64)), "none", 1)
    images = torch.stack([torch.full((3, 8, 10), level, dtype=torch.float64) for level in (0.05, 0.2, 0.9)])
    for kind in KINDS:
        for min_range, expected in ((0.1, [True, False, False]), (0.5, [True, True, False])):
            score = measure(f"normalised-{kind}", model, images, target=0, steps=4, min_range=min_range)
            assert score.values.isnan().tolist() == expected
            reason = "the score of the image exceeds that of the baseline by less than min_range"
            assert score.undefined[reason].tolist() == expected


@pytest.mark.parametrize("method", ["random", "sobel", "center"])
def test_controls_insert_as_they_delete(method):
    """Areas of maps that ignore an additive model sum to 1 for each image, and are 1/2 on average over models."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.rand(100, 3, 8, 10, dtype=torch.float64, generator=generator)
    model = with_output(toys.Linear(weight), "none", 100)
    images = torch.full((100, 3, 8, 10), 0.5, dtype=torch.float64)
    images[:, :, 0, 0] = 0.5001
    targets = list(range(100))
    maps = xplain.attribute(model, images, method, target=targets).values
    areas = [
        measure(f"normalised-{kind}", model, images, maps, targets, steps=80).values
        for kind in ("insertion", "deletion")
    ]
    toys.assert_same(areas[0] + areas[1], torch.ones(100, dtype=torch.float64))
    assert float(areas[0].mean()) == pytest.approx(0.5, abs=0.01)


def test_clip_limits_both_sides():
    """Of 80 pixels, 40 add 3 and 40 take away 1: the value 80 of the image is first exceeded by half, or first missed by half."""
    weight = torch.zeros(3, 8, 10, dtype=torch.float64)
    weight[0] = torch.where(torch.arange(80) < 40, 3.0, -1.0).double().reshape(8, 10)
    model = with_output(value(weight), "none", 1)
    images = torch.ones(1, 3, 8, 10, dtype=torch.float64)
    for sign, plain, clipped in ((1, [0, 1.5, 1], [0, 1, 1]), (-1, [0, -0.5, 1], [0, 0, 1])):
        options = {"images": images, "maps": sign * weight[None], "target": 0, "steps": 2}
        assert measure("normalised-insertion", model, **options).curve[0].tolist() == pytest.approx(plain, abs=1e-12)
        curve = measure("normalised-insertion", model, clip=True, **options).curve[0]
        assert curve.tolist() == pytest.approx(clipped, abs=1e-12)
