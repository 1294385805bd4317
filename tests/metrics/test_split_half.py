"""Split halves: reliability, its samples, and the overlap of jointly normal maps."""

from __future__ import annotations

import math

import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.core.stability import Stability
from xplain.metrics.split_half import (
    CONSTANT_HALF,
    estimate_draws,
    find_reliability,
    normal_overlap,
    samples_for_reliability,
)

CLASSIFIER, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2)


def test_overlap_of_normal_maps():
    """The values of a table that was simulated separately; 0.1 without correlation."""
    correlations = torch.tensor([0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
    expected = [0.10, 0.22, 0.32, 0.47, 0.56, 0.69, 0.78, 0.90]
    assert normal_overlap(correlations).tolist() == pytest.approx(expected, abs=0.006)
    assert normal_overlap(torch.tensor([1.0])).tolist() == pytest.approx([1], abs=1e-3)


@pytest.mark.parametrize(("reliability", "ratio"), [(0.5, 19), (0.8, 4.75)])
def test_samples_for_reliability(reliability, ratio):
    assert samples_for_reliability(reliability, 20) == 20 * ratio
    assert samples_for_reliability(-0.2, 20) is None


def test_reliability_predicts_correlation_of_independent_runs():
    """20 noisy copies of a map: the halves correlate less than two whole maps, which the reliability corrects."""
    generator = torch.Generator().manual_seed(2)
    base = torch.randn((1, 1, 1, 200, 200), generator=generator, dtype=torch.float64)
    runs = base + 4 * torch.randn((2, 20, 1, 200, 200), generator=generator, dtype=torch.float64)
    parts = torch.stack([runs[:1, 0::2].sum(dim=1), runs[:1, 1::2].sum(dim=1)], dim=1)
    direct = torch.corrcoef(runs.sum(dim=1).flatten(1))[0, 1]
    halves = torch.corrcoef(parts[0].flatten(1))[0, 1]
    assert float(find_reliability(parts)) == pytest.approx(float(direct), abs=0.02)
    assert float(direct - halves) > 0.1
    assert float(find_reliability(parts)) == pytest.approx(float(2 * halves / (1 + halves)))


@pytest.mark.parametrize(("method", "options"), [("neflag", {}), ("smoothgrad", {}), ("rise", {"masks": 50})])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_parts_are_even_and_odd_samples(method, options, batch_size):
    """A fifth sample changes the even half only, and both halves add up to the map."""
    samples = "masks" if method == "rise" else "samples"
    counts = options or {samples: 5}
    parts = xplain.attribute(CLASSIFIER, X, method, batch_size=batch_size, **counts).parts
    total = {}
    for count in (4, 5):
        attribution = xplain.attribute(CLASSIFIER, X, method, **{samples: count})
        scale = {"neflag": 1, "smoothgrad": count, "rise": count * 0.5}[method]
        total[count] = (attribution.values * scale, attribution.parts)
    toys.assert_same(total[5][1][:, 1], total[4][1][:, 1])  # the fifth sample is even
    toys.assert_same(total[5][1][:, 0] - total[4][1][:, 0], total[5][0] - total[4][0])
    toys.assert_same(total[5][1].sum(dim=1), total[5][0])
    whole = xplain.attribute(CLASSIFIER, X, method, **counts)
    toys.assert_same(parts, whole.parts)


def test_estimated_draws_and_advice():
    generator = torch.Generator().manual_seed(2)
    base = torch.randn((1, 1, 60, 60), generator=generator, dtype=torch.float64)
    noise = torch.randn((2, 1, 60, 60), generator=generator, dtype=torch.float64)
    parts = torch.stack([base + noise[:1], base + noise[1:]], dim=1)
    result = estimate_draws(parts.sum(dim=1), parts, 20)
    r = float(find_reliability(parts))
    assert r == pytest.approx(2 / 3, abs=0.03)
    entry = result.describe(0)
    assert entry["spearman"] == pytest.approx(6 / math.pi * math.asin(r / 2), abs=1e-4)
    assert entry["top10"] == pytest.approx(float(normal_overlap(torch.tensor([r]))), abs=1e-4)
    needed = math.ceil(20 * 0.95 * (1 - r) / (r * 0.05))
    assert (entry["repeats"], entry["estimated"], entry["samples_needed"]) == (0, "split-half", needed)
    warning = f"unstable: stability {entry['top10']:.2f} (draws); about {needed} samples instead of 20 reach a reliability of 0.95"
    assert Stability("quick", {"draws": result, "rounding": "", "noise": ""}, 0).warnings(0) == [warning]


def test_constant_half_is_undefined():
    ramp = torch.arange(40.0).reshape(1, 1, 5, 8)
    result = estimate_draws(ramp, torch.stack([ramp, ramp * 0], dim=1), 2)
    assert (result.reason(0), result.describe(0)["top10"]) == (CONSTANT_HALF, None)


def test_quick_stability_of_many_samples_needs_no_draws():
    attribution = xplain.attribute(CLASSIFIER, X, "rise", masks=80, stability="quick")
    record = attribution.stability.describe(0)
    assert (record["draws"]["estimated"], record["draws"]["repeats"], record["draws"]["samples"]) == (
        "split-half",
        0,
        80,
    )
    assert (record["noise"]["repeats"], record["rounding"], record["rows"]) == (1, None, 81)
