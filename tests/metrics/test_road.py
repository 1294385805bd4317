"""ROAD against reference code, on models with known evidence, and shared forwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.reference import road as reference
from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions
from xplain.core.registry import METRICS
from xplain.core.rng import Streams
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle
from xplain.pipelines.metric_run import MetricRun

X = toys.images(3)
MAPS = toys.images(3, seed=9) - 0.5
NET = toys.small_net(1, scale=15.0)
MODEL, LOGITS = toys.with_pixels(NET)


def compute_score(
    metric: str = "road", maps: Tensor = MAPS, images: Tensor = X, model=MODEL, **options
) -> xplain.Score:
    options = {"percentiles": "10+50+80", "target": [2, 0, 4]} | options
    return xplain.measure(model, images, maps, metric, **options)


def compute_reference_curve(i: int, target: int, lowest: bool, score: str, noise: float) -> list[float]:
    keys = Streams.of(X[i : i + 1], 0, "road").child("lowest" if lowest else "highest")
    curve = []
    for percentile in (10, 50, 80):
        removed = reference.removed(MAPS[i].sum(dim=0), round((100 - percentile) * 0.8), lowest)
        drawn = keys.normal(torch.tensor([percentile * 1000]), (3, 8, 10), torch.float64)[0, 0]
        image = reference.imputed(X[i], removed) + noise * drawn * removed
        logits = LOGITS(image[None])[0].detach()
        curve.append(float((logits.softmax(0) if score == "prob" else logits)[target]))
    return curve


@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_curve_matches_reference(score, noise):
    most, least, both = (compute_score(name, score=score, noise=noise) for name in ("road-morf", "road-lerf", "road"))
    for i, target in enumerate([2, 0, 4]):
        high, low = (compute_reference_curve(i, target, lowest, score, noise) for lowest in (False, True))
        assert most.curve[i].tolist() == pytest.approx(high, abs=2e-4)
        assert least.curve[i].tolist() == pytest.approx(low, abs=2e-4)
        halves = [(a - b) / 2 for a, b in zip(low, high, strict=True)]
        assert both.curve[i].tolist() == pytest.approx(halves, abs=2e-4)
        assert float(both.values[i]) == pytest.approx(sum(halves) / 3, abs=2e-4)
    assert float((most.curve - least.curve).abs().max()) > 0.01


def test_negated_map_swaps_morf_lerf():
    score, negated = (compute_score(maps=maps, noise=0) for maps in (MAPS, -MAPS))
    toys.assert_same(score.values, -negated.values)
    toys.assert_same(compute_score("road-morf", noise=0).curve, compute_score("road-lerf", maps=-MAPS, noise=0).curve)


def test_evidence_map_beats_its_negative():
    spot = torch.full((3, 3, 8, 10), 0.2, dtype=torch.float64)
    spot[..., 3:6, 4:7] = 0.9
    logits = toys.Function(
        lambda x: torch.stack([torch.full_like(x[:, 0, 0, 0], 2), 6 * x[..., 3:6, 4:7].mean((1, 2, 3))], 1)
    )
    maps = (spot > 0.5).double()
    options = {"images": spot, "model": toys.classifier(logits), "target": 1}
    assert (compute_score(maps=maps, **options).values > 0.2).all()
    assert (compute_score(maps=-maps, **options).values < -0.2).all()


def test_noise_ignores_the_map():
    """Two maps that remove the same pixels get the same noise."""
    first = torch.zeros(1, 1, 8, 10, dtype=torch.float64)
    first[..., :4, :] = 1
    other = first * 7
    scores = [compute_score(maps=m.expand(3, -1, -1, -1), percentiles="50", noise=0.3).values for m in (first, other)]
    assert torch.equal(*scores)
    again = compute_score(maps=first.expand(3, -1, -1, -1), percentiles="50", noise=0.3, seed=1).values
    assert not torch.equal(scores[0], again)


def test_road_metrics_share_forwards():
    oracle = Oracle(MODEL, score="prob")
    inputs = MetricInput(oracle, X, MAPS, torch.tensor([2, 0, 4]))
    counts = []
    for name in ("road-morf", "road", "road-lerf"):
        spec = METRICS.get(name)
        MetricRun.resolve(spec, {"percentiles": "10+50"}).measure(inputs, ComputeOptions())
        counts.append(oracle.cost.forwards)
    assert counts == [6, 12, 12]
    assert compute_score().cost.forwards == 3 * 6


def test_percentile_removing_everything_is_rejected():
    with pytest.raises(UsageError, match=r"road: percentile 0\.1 removes all 80 pixels; use a higher percentile"):
        compute_score(percentiles="0.1+50")
