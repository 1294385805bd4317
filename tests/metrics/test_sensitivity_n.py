"""Sensitivity-n on linear models and against reference code, its subsets, and undefined values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.reference import sensitivity_n as reference
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.metrics.sensitivity_n import draw_subsets

X = toys.images(3)
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
MEAN = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None]
NET = toys.small_net(1, scale=15.0)
MAPS = toys.images(3, seed=9) - 0.5
UNITS = ["patch", "pixel", "scalar"]


def make_linear_classifier() -> xplain.Classifier:
    """Return a classifier with logits W x of the pixels, whose normalization maps MEAN to zero."""

    def logits(x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x + MEAN, WEIGHT)

    return toys.classifier(toys.Function(logits), mean=toys.MEAN)


def compute_score(model: xplain.Classifier, maps: Tensor, images: Tensor = X, **options) -> xplain.Score:
    options = {"grid": 4, "masks": 12, "target": 1} | options
    return xplain.measure(model, images, maps, "sensitivity-n", **options)


FILLS = {"mean": MEAN, "black": torch.zeros_like(MEAN)}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("baseline", FILLS)
def test_exact_linear_map_scores_one(unit, baseline):
    exact = WEIGHT[1] * (X - FILLS[baseline])
    for maps, expected in ((exact, 1.0), (-exact, -1.0), (exact * 1e-9, 1.0), (exact * 1e9, 1.0)):
        score = compute_score(make_linear_classifier(), maps, unit=unit, baseline=baseline)
        assert score.values.tolist() == pytest.approx([expected] * 3, abs=1e-9)
        assert score.curve.shape == (3, 9)
        assert score.curve.flatten().tolist() == pytest.approx([expected] * 27, abs=1e-9)
    assert compute_score(make_linear_classifier(), WEIGHT[1] * X, unit=unit, baseline="mean").values.max() < 0.99


def test_gray_map_sums_over_channels():
    exact = (WEIGHT[1] * (X - MEAN)).sum(dim=1, keepdim=True)
    assert compute_score(make_linear_classifier(), exact).values.tolist() == pytest.approx([1.0] * 3, abs=1e-9)
    assert compute_score(make_linear_classifier(), exact, unit="pixel").values.tolist() == pytest.approx(
        [1.0] * 3, abs=1e-9
    )


def test_gray_map_fits_every_channel():
    model, grey = toys.classifier(NET), MAPS[:, :1]
    score = compute_score(model, grey, unit="scalar")
    toys.assert_same(score.curve, compute_score(model, grey.expand(-1, 3, -1, -1), unit="scalar").curve)


def test_finest_grid_matches_pixels():
    model, images, maps = toys.classifier(NET), toys.images(2, 8, 8), toys.images(2, 8, 8, seed=4)
    fine = compute_score(model, maps, images, grid=8)
    toys.assert_same(fine.curve, compute_score(model, maps, images, unit="pixel").curve)


def test_sums_use_float64():
    """Each cell sums 2^24 + k - 2^24, which float32 would round to 0."""
    values = torch.arange(1.0, 32.0, 2.0).reshape(4, 4)
    maps, weight = torch.zeros(1, 1, 8, 8), torch.zeros(8, 8)
    maps[0, 0, ::2, ::2], maps[0, 0, ::2, 1::2], maps[0, 0, 1::2, ::2] = 2.0**24, values, -(2.0**24)
    weight[::2, 1::2] = values

    def logits(x: Tensor) -> Tensor:
        total = (x[:, 0] * weight).sum(dim=(1, 2))
        return torch.stack([-total, total], dim=1)

    model = toys.classifier(toys.Function(logits).float())
    score = compute_score(model, maps, torch.ones(1, 3, 8, 8))
    assert score.curve[0].tolist() == pytest.approx([1.0] * 9, abs=1e-12)


def test_score_ignores_map_offset():
    images, maps = toys.images(2, 8, 8), toys.images(2, 8, 8, seed=4)
    model = toys.classifier(NET)
    toys.assert_same(
        compute_score(model, maps, images).curve, compute_score(model, 3 * maps + 7, images).curve, rtol=1e-7
    )


def draw_reference_subsets(image: Tensor, share: float, masks: int, units: int) -> Tensor:
    """Return the subsets (masks, units) that the metric draws for an image and a fraction."""
    rng = Streams.of(image[None], 0, "sensitivity-n")
    samples = torch.tensor([round(share * 1000) * 2**20 + m for m in range(masks)])
    counts = torch.full((masks,), round(share * units / 100))
    return draw_subsets(rng, samples, counts, units)[0]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("score", ["logit", "prob", "log-prob"])
def test_score_matches_reference(unit, score):
    model, logits = toys.with_pixels(NET)
    measured = compute_score(model, MAPS, unit=unit, score=score, fractions="20+55", masks=7, target=[2, 0, 4])
    read_score = {"logit": lambda z: z, "prob": lambda z: z.softmax(0), "log-prob": lambda z: z.log_softmax(0)}[score]
    units = {"patch": 16, "pixel": 80, "scalar": 240}[unit]
    for i, target in enumerate([2, 0, 4]):
        for k, share in enumerate((20, 55)):
            chosen = draw_reference_subsets(X[i], share, 7, units)
            if unit == "patch":
                masks = [reference.patches(subset.reshape(4, 4), 8, 10)[None] for subset in chosen]
            else:
                masks = [subset.reshape(-1, 8, 10) for subset in chosen]
            expected = reference.sensitivity(
                lambda x, t=target: float(read_score(logits(x[None])[0])[t].detach()), X[i], MAPS[i], masks, MEAN
            )
            assert float(measured.curve[i, k]) == pytest.approx(expected, abs=1e-9)
    toys.assert_same(measured.values, measured.curve.mean(dim=1))


def test_draw_subsets_is_uniform():
    rng = Streams.of(X, 0, "any")
    counts = torch.tensor([0, 1, 7, 20] * 500)
    chosen = draw_subsets(rng, torch.arange(2000), counts, 20)
    assert torch.equal(chosen.sum(dim=2), counts.expand(3, -1))
    seven = chosen[:, 2::4].double()
    assert float((seven.mean(dim=(0, 1)) - 0.35).abs().max()) < 4.5 * (0.35 * 0.65 / 1500) ** 0.5
    together = float((seven[:, :, 0] * seven[:, :, 1]).mean())
    assert together == pytest.approx(7 * 6 / (20 * 19), abs=0.035)


def test_fractions_are_independent():
    model = toys.classifier(NET)
    curve = compute_score(model, MAPS).curve
    for k, fraction in enumerate(("10", "20", "30")):
        alone = compute_score(model, MAPS, fractions=fraction)
        toys.assert_same(alone.curve[:, 0], curve[:, k])
        toys.assert_same(alone.values, curve[:, k])
    toys.assert_same(compute_score(model, MAPS, fractions="20+90").curve, curve[:, [1, 8]])
    assert float((curve[:, 0] - curve[:, 1]).abs().min()) > 1e-6


def test_subsets_ignore_the_map():
    inputs: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        inputs.append(x)
        return NET(x)

    model = toys.classifier(toys.Function(logits))
    masked = []
    for maps in (MAPS, toys.images(3, seed=77)):
        inputs.clear()
        compute_score(model, maps, fractions="30")
        masked.append(torch.cat([x for x in inputs if x.shape[2:] == (8, 10)]))
    assert len(masked[0]) > 36
    assert torch.equal(masked[0][-36:], masked[1][-36:])


def test_seed_changes_subsets():
    model = toys.classifier(NET)
    assert not torch.equal(compute_score(model, MAPS).values, compute_score(model, MAPS, seed=1).values)


@pytest.mark.parametrize("unit", UNITS)
def test_cost_counts_masks_and_fractions(unit):
    score = compute_score(toys.classifier(NET), MAPS, unit=unit, fractions="10+50", masks=5)
    assert (score.cost.forwards, score.cost.backwards) == (3 * 10, 0)


def test_constant_map_is_undefined():
    images = toys.images(3, 8, 8)
    for level in (0.0, 0.1, -3.7):
        score = compute_score(toys.classifier(NET), torch.full((3, 1, 8, 8), level), images)
        assert score.values.isnan().all()
        assert {reason: mask.tolist() for reason, mask in score.undefined.items() if mask.any()} == {
            "the map's sums do not vary between subsets": [True] * 3
        }


def test_rounding_of_sums_is_undefined():
    maps = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    maps[..., ::2, ::2] = 0.6  # one pixel in each of 4 x 4 cells
    maps[..., :4:2, ::2] *= 1 + 1e-14
    score = compute_score(toys.classifier(NET), maps, toys.images(1, 8, 8))
    assert score.values.isnan().all()
    assert score.undefined["the map's sums do not vary between subsets"].all()


def test_rounding_of_scores_is_undefined():
    def logits(x: Tensor) -> Tensor:
        return 1 + 1e-16 * torch.stack([x[:, 0].sum(dim=(1, 2)), x[:, 1].sum(dim=(1, 2))], dim=1)

    assert logits(X).unique().numel() > 1
    score = compute_score(toys.classifier(toys.Function(logits)), MAPS)
    assert score.values.isnan().all()
    assert score.undefined["the score does not vary between subsets"].all()


def test_only_constant_map_is_undefined():
    images = toys.images(3, 8, 8)
    maps = toys.images(3, 8, 8, seed=3, channels=1)
    maps[1] = 0.3
    score = compute_score(toys.classifier(NET), maps, images)
    assert score.values.isnan().tolist() == [False, True, False]


def test_constant_model_is_undefined():
    model = toys.classifier(toys.Function(lambda x: x.sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] * 0 + torch.ones(2)))
    score = compute_score(model, MAPS)
    assert score.values.isnan().all()
    assert score.undefined["the score does not vary between subsets"].all()
    assert not score.undefined["the map's sums do not vary between subsets"].any()


def test_fraction_100_is_undefined():
    score = compute_score(toys.classifier(NET), MAPS, fractions="50+100")
    assert score.values.isnan().all()
    assert score.curve.isnan().tolist() == [[False, True]] * 3


@pytest.mark.parametrize(
    "text", ["", "0", "abc", "10+", "10..", "20+10", "10+10", "101", "-5", "nan", "90..10", "0..50"]
)
def test_fractions_invalid_are_rejected(text):
    with pytest.raises(UsageError, match=r"use increasing percentages such as 10\.\.90 or 10\+30\+50"):
        compute_score(toys.classifier(NET), MAPS, fractions=text)


def test_fractions_accept_a_number():
    model = toys.classifier(NET)
    for number in (10, 12.5):
        assert torch.equal(
            compute_score(model, MAPS, fractions=number).curve, compute_score(model, MAPS, fractions=str(number)).curve
        )


def test_grid_too_fine_is_rejected():
    with pytest.raises(UsageError, match="grid=9 exceeds the image size of 8 x 10 pixels; use a smaller grid"):
        compute_score(toys.classifier(NET), MAPS, grid=9)
