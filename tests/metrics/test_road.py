"""ROAD: its imputation against a dense solve, ramps, the maximum principle; its curves against a literal reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.reference import road as literal
from xplain.core.errors import UsageError
from xplain.core.registry import METRICS
from xplain.core.rng import Streams
from xplain.metrics import _imputation as imputation
from xplain.metrics._imputation import impute
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle
from xplain.oracle.runtime import Runtime
from xplain.pipelines.attribution import run_metric

X = toys.images(3)
MAPS = toys.images(3, seed=9) - 0.5
NET = toys.small_net(1, scale=15.0)
MODEL, LOGITS = toys.with_pixels(NET)


def random_mask(share: float, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, height, width, generator=generator) < share


def measured(metric: str = "road", maps: Tensor = MAPS, images: Tensor = X, model=MODEL, **options) -> xplain.Score:
    options = {"percentiles": "10+50+80", "target": [2, 0, 4]} | options
    return xplain.measure(model, images, maps, metric, **options)


# ------------------------------------------------------------------------------------------------- imputation


@pytest.mark.parametrize(("height", "width"), [(8, 10), (7, 9), (2, 5), (13, 4)])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_agrees_with_a_dense_solve(height, width, share):
    images = toys.images(4, height, width)
    masks = torch.cat([random_mask(share, height, width, seed) for seed in range(4)])
    masks[:, :, 0, 0] = False
    found = impute(images, masks)
    for i in range(4):
        expected = literal.imputed(images[i], masks[i, 0])
        assert float((found[i] - expected).abs().max()) < 1e-5
        assert torch.equal(found[i][:, ~masks[i, 0]], images[i][:, ~masks[i, 0]])


def test_nothing_missing_changes_nothing():
    assert torch.equal(impute(X, torch.zeros(3, 1, 8, 10, dtype=torch.bool)), X)


def test_a_linear_ramp_is_restored_away_from_the_border():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="ij")
    ramp = (0.2 + 0.01 * rows + 0.005 * columns).double().expand(1, 3, 40, 30)
    inside = torch.zeros(1, 1, 40, 30, dtype=torch.bool)
    inside[..., 1:-1, 1:-1] = True
    for missing in (inside, inside & random_mask(0.7, 40, 30)):
        assert float((impute(ramp, missing) - ramp).abs().max()) < 2e-5


def test_a_ramp_is_bent_where_the_border_is_missing():
    ramp = torch.arange(30.0).double().expand(1, 3, 20, 30)
    missing = torch.zeros(1, 1, 20, 30, dtype=torch.bool)
    missing[..., -1] = True
    assert float((impute(ramp, missing) - ramp)[..., -1].max()) < -0.9


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_imputed_values_lie_between_known_ones(share):
    images = toys.images(2, 33, 41)
    missing = torch.cat([random_mask(share, 33, 41, seed) for seed in (1, 2)])
    found = impute(images, missing)
    for i in range(2):
        for channel in range(3):
            known = images[i, channel][~missing[i, 0]]
            new = found[i, channel][missing[i, 0]]
            assert known.min() - 1e-5 < new.min() <= new.max() < known.max() + 1e-5


def test_few_iterations_restore_a_whole_image_from_one_pixel(monkeypatch):
    monkeypatch.setattr(imputation, "MAX_ITERATIONS", 150)
    missing = torch.ones(1, 1, 96, 96, dtype=torch.bool)
    missing[..., 20, 70] = False
    image = toys.images(1, 96, 96)
    expected = image[..., 20:21, 70:71].expand_as(image)
    assert float((impute(image, missing) - expected).abs().max()) < 1e-4


def test_no_image_depends_on_the_others():
    masks = torch.cat([random_mask(share, 8, 10) for share in (0.1, 0.5, 0.95)])
    together = impute(X, masks)
    for i in range(3):
        toys.assert_same(together[i], impute(X[i : i + 1], masks[i : i + 1])[0])


# ------------------------------------------------------------------------------------------------- curves


def expected_curve(i: int, target: int, lowest: bool, score: str, noise: float) -> list[float]:
    keys = Streams.of(X[i : i + 1], 0, "road").child("lowest" if lowest else "highest")
    curve = []
    for percentile in (10, 50, 80):
        gone = literal.removed(MAPS[i].sum(dim=0), round((100 - percentile) * 0.8), lowest)
        drawn = keys.normal(torch.tensor([percentile * 1000]), (3, 8, 10), torch.float64)[0, 0]
        image = literal.imputed(X[i], gone) + noise * drawn * gone
        z = LOGITS(image[None])[0].detach()
        curve.append(float((z.softmax(0) if score == "prob" else z)[target]))
    return curve


@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_agrees_with_the_literal_reference(score, noise):
    most, least, both = (measured(name, score=score, noise=noise) for name in ("road-morf", "road-lerf", "road"))
    for i, target in enumerate([2, 0, 4]):
        high, low = (expected_curve(i, target, lowest, score, noise) for lowest in (False, True))
        assert most.curve[i].tolist() == pytest.approx(high, abs=2e-4)
        assert least.curve[i].tolist() == pytest.approx(low, abs=2e-4)
        halves = [(a - b) / 2 for a, b in zip(low, high, strict=True)]
        assert both.curve[i].tolist() == pytest.approx(halves, abs=2e-4)
        assert float(both.values[i]) == pytest.approx(sum(halves) / 3, abs=2e-4)
    assert float((most.curve - least.curve).abs().max()) > 0.01


def test_the_negated_map_swaps_the_two_and_turns_the_sign_without_noise():
    plain, turned = (measured(maps=maps, noise=0) for maps in (MAPS, -MAPS))
    toys.assert_same(plain.values, -turned.values)
    toys.assert_same(measured("road-morf", noise=0).curve, measured("road-lerf", maps=-MAPS, noise=0).curve)


def test_a_map_that_knows_the_spot_beats_one_that_does_not():
    spot = torch.full((3, 3, 8, 10), 0.2, dtype=torch.float64)
    spot[..., 3:6, 4:7] = 0.9
    logits = toys.Function(
        lambda x: torch.stack([torch.full_like(x[:, 0, 0, 0], 2), 6 * x[..., 3:6, 4:7].mean((1, 2, 3))], 1)
    )
    maps = (spot > 0.5).double()
    options = {"images": spot, "model": toys.classifier(logits), "target": 1}
    assert (measured(maps=maps, **options).values > 0.2).all()
    assert (measured(maps=-maps, **options).values < -0.2).all()


def test_noise_depends_on_seed_and_image_but_not_on_the_map():
    """Two maps that remove the same pixels meet the same noise."""
    first = torch.zeros(1, 1, 8, 10, dtype=torch.float64)
    first[..., :4, :] = 1
    other = first * 7
    found = [measured(maps=m.expand(3, -1, -1, -1), percentiles="50", noise=0.3).values for m in (first, other)]
    assert torch.equal(*found)
    again = measured(maps=first.expand(3, -1, -1, -1), percentiles="50", noise=0.3, seed=1).values
    assert not torch.equal(found[0], again)


# ------------------------------------------------------------------------------------------------- cost and refusals


def test_the_three_share_their_forwards():
    oracle = Oracle(MODEL, score="prob")
    inputs = MetricInput(oracle, X, MAPS, torch.tensor([2, 0, 4]))
    counts = []
    for name in ("road-morf", "road", "road-lerf"):
        spec = METRICS.get(name)
        run_metric(spec, spec.resolve({"percentiles": "10+50"}), inputs, Runtime())
        counts.append(oracle.cost.forwards)
    assert counts == [6, 12, 12]
    assert measured().cost.forwards == 3 * 6


def test_a_percentile_that_keeps_no_pixel_is_refused():
    with pytest.raises(UsageError, match=r"road: percentile 0\.1 removes all 80 pixels; use a higher percentile"):
        measured(percentiles="0.1+50")
