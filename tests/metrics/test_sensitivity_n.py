"""Sensitivity-n: linear models, a literal reference, its subsets, and what is undefined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.reference import sensitivity_n as literal
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.metrics.sensitivity_n import draw_subsets

X = toys.images(3)
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
MEAN = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None]
NET = toys.small_net(1, scale=15.0)
MAPS = toys.images(3, seed=9) - 0.5
UNITS = ["patch", "pixel", "scalar"]


def linear() -> xplain.Classifier:
    """Logits W x of the pixels; what it takes for zero of its input is MEAN."""

    def logits(x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x + MEAN, WEIGHT)

    return toys.classifier(toys.Function(logits), mean=toys.MEAN)


def measured(model: xplain.Classifier, maps: Tensor, images: Tensor = X, **options) -> xplain.Score:
    options = {"grid": 4, "masks": 12, "target": 1} | options
    return xplain.measure(model, images, maps, "sensitivity-n", **options)


FILLS = {"mean": MEAN, "black": torch.zeros_like(MEAN)}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("baseline", FILLS)
def test_the_exact_map_of_a_linear_model_has_one_and_its_negative_minus_one(unit, baseline):
    exact = WEIGHT[1] * (X - FILLS[baseline])
    for maps, expected in ((exact, 1.0), (-exact, -1.0), (exact * 1e-9, 1.0), (exact * 1e9, 1.0)):
        found = measured(linear(), maps, unit=unit, baseline=baseline)
        assert found.values.tolist() == pytest.approx([expected] * 3, abs=1e-9)
        assert found.curve.shape == (3, 9)
        assert found.curve.flatten().tolist() == pytest.approx([expected] * 27, abs=1e-9)
    assert measured(linear(), WEIGHT[1] * X, unit=unit, baseline="mean").values.max() < 0.99


def test_a_map_without_colour_stands_for_the_sum_over_channels():
    exact = (WEIGHT[1] * (X - MEAN)).sum(dim=1, keepdim=True)
    assert measured(linear(), exact).values.tolist() == pytest.approx([1.0] * 3, abs=1e-9)
    assert measured(linear(), exact, unit="pixel").values.tolist() == pytest.approx([1.0] * 3, abs=1e-9)


def test_a_map_without_colour_gives_every_channel_its_value():
    model, grey = toys.classifier(NET), MAPS[:, :1]
    found = measured(model, grey, unit="scalar")
    toys.assert_same(found.curve, measured(model, grey.expand(-1, 3, -1, -1), unit="scalar").curve)


def test_a_grid_as_fine_as_the_image_is_its_pixels():
    model, images, maps = toys.classifier(NET), toys.images(2, 8, 8), toys.images(2, 8, 8, seed=4)
    fine = measured(model, maps, images, grid=8)
    toys.assert_same(fine.curve, measured(model, maps, images, unit="pixel").curve)


def test_attributions_of_float32_are_summed_in_float64():
    """Each cell holds 2^24 + k - 2^24, of which float32 would lose k to rounding."""
    worth = torch.arange(1.0, 32.0, 2.0).reshape(4, 4)
    maps, weight = torch.zeros(1, 1, 8, 8), torch.zeros(8, 8)
    maps[0, 0, ::2, ::2], maps[0, 0, ::2, 1::2], maps[0, 0, 1::2, ::2] = 2.0**24, worth, -(2.0**24)
    weight[::2, 1::2] = worth

    def logits(x: Tensor) -> Tensor:
        total = (x[:, 0] * weight).sum(dim=(1, 2))
        return torch.stack([-total, total], dim=1)

    model = toys.classifier(toys.Function(logits).float())
    found = measured(model, maps, torch.ones(1, 3, 8, 8))
    assert found.curve[0].tolist() == pytest.approx([1.0] * 9, abs=1e-12)


def test_a_shift_of_all_attributions_changes_nothing_where_patches_are_equal():
    images, maps = toys.images(2, 8, 8), toys.images(2, 8, 8, seed=4)
    model = toys.classifier(NET)
    toys.assert_same(measured(model, maps, images).curve, measured(model, 3 * maps + 7, images).curve, rtol=1e-7)


def drawn(image: Tensor, share: float, masks: int, units: int) -> Tensor:
    """(masks, units) the subsets that a fraction is measured on: those of the metric's stream for this image."""
    rng = Streams.of(image[None], 0, "sensitivity-n")
    samples = torch.tensor([round(share * 1000) * 2**20 + m for m in range(masks)])
    counts = torch.full((masks,), round(share * units / 100))
    return draw_subsets(rng, samples, counts, units)[0]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("score", ["logit", "prob", "log-prob"])
def test_agrees_with_the_literal_reference(unit, score):
    model, logits = toys.with_pixels(NET)
    found = measured(model, MAPS, unit=unit, score=score, fractions="20+55", masks=7, target=[2, 0, 4])
    read = {"logit": lambda z: z, "prob": lambda z: z.softmax(0), "log-prob": lambda z: z.log_softmax(0)}[score]
    units = {"patch": 16, "pixel": 80, "scalar": 240}[unit]
    for i, target in enumerate([2, 0, 4]):
        for k, share in enumerate((20, 55)):
            chosen = drawn(X[i], share, 7, units)
            if unit == "patch":
                masks = [literal.patches(each.reshape(4, 4), 8, 10)[None] for each in chosen]
            else:
                masks = [each.reshape(-1, 8, 10) for each in chosen]
            expected = literal.sensitivity(
                lambda x, t=target: float(read(logits(x[None])[0])[t].detach()), X[i], MAPS[i], masks, MEAN
            )
            assert float(found.curve[i, k]) == pytest.approx(expected, abs=1e-9)
    toys.assert_same(found.values, found.curve.mean(dim=1))


# ------------------------------------------------------------------------------------------------- subsets


def test_subsets_have_their_size_and_every_unit_is_as_likely():
    rng = Streams.of(X, 0, "any")
    counts = torch.tensor([0, 1, 7, 20] * 500)
    found = draw_subsets(rng, torch.arange(2000), counts, 20)
    assert torch.equal(found.sum(dim=2), counts.expand(3, -1))
    seven = found[:, 2::4].double()
    assert float((seven.mean(dim=(0, 1)) - 0.35).abs().max()) < 4.5 * (0.35 * 0.65 / 1500) ** 0.5
    together = float((seven[:, :, 0] * seven[:, :, 1]).mean())
    assert together == pytest.approx(7 * 6 / (20 * 19), abs=0.035)


def test_one_fraction_alone_has_the_number_that_it_has_among_all():
    model = toys.classifier(NET)
    curve = measured(model, MAPS).curve
    for k, fraction in enumerate(("10", "20", "30")):
        alone = measured(model, MAPS, fractions=fraction)
        toys.assert_same(alone.curve[:, 0], curve[:, k])
        toys.assert_same(alone.values, curve[:, k])
    toys.assert_same(measured(model, MAPS, fractions="20+90").curve, curve[:, [1, 8]])
    assert float((curve[:, 0] - curve[:, 1]).abs().min()) > 1e-6


def test_all_methods_meet_the_same_subsets():
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x)
        return NET(x)

    model = toys.classifier(toys.Function(logits))
    masked = []
    for maps in (MAPS, toys.images(3, seed=77)):
        seen.clear()
        measured(model, maps, fractions="30")
        masked.append(torch.cat([x for x in seen if x.shape[2:] == (8, 10)]))
    assert len(masked[0]) > 36
    assert torch.equal(masked[0][-36:], masked[1][-36:])


def test_another_seed_removes_other_subsets():
    model = toys.classifier(NET)
    assert not torch.equal(measured(model, MAPS).values, measured(model, MAPS, seed=1).values)


@pytest.mark.parametrize("unit", UNITS)
def test_a_forward_for_each_mask_and_fraction(unit):
    found = measured(toys.classifier(NET), MAPS, unit=unit, fractions="10+50", masks=5)
    assert (found.cost.forwards, found.cost.backwards) == (3 * 10, 0)


# ------------------------------------------------------------------------------------------------- undefined, refused


def test_a_constant_map_has_no_correlation():
    images = toys.images(3, 8, 8)
    for level in (0.0, 0.1, -3.7):
        found = measured(toys.classifier(NET), torch.full((3, 1, 8, 8), level), images)
        assert found.values.isnan().all()
        assert {reason: mask.tolist() for reason, mask in found.undefined.items() if mask.any()} == {
            "the map's sums do not vary between subsets": [True] * 3
        }


def test_sums_that_differ_by_rounding_alone_do_not_vary():
    maps = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    maps[..., ::2, ::2] = 0.6  # one pixel in each of 4 x 4 cells
    maps[..., :4:2, ::2] *= 1 + 1e-14
    found = measured(toys.classifier(NET), maps, toys.images(1, 8, 8))
    assert found.values.isnan().all()
    assert found.undefined["the map's sums do not vary between subsets"].all()


def test_scores_that_differ_by_rounding_alone_do_not_vary():
    def logits(x: Tensor) -> Tensor:
        return 1 + 1e-16 * torch.stack([x[:, 0].sum(dim=(1, 2)), x[:, 1].sum(dim=(1, 2))], dim=1)

    assert logits(X).unique().numel() > 1
    found = measured(toys.classifier(toys.Function(logits)), MAPS)
    assert found.values.isnan().all()
    assert found.undefined["the score does not vary between subsets"].all()


def test_only_the_constant_one_of_several_maps_is_undefined():
    images = toys.images(3, 8, 8)
    maps = toys.images(3, 8, 8, seed=3, channels=1)
    maps[1] = 0.3
    found = measured(toys.classifier(NET), maps, images)
    assert found.values.isnan().tolist() == [False, True, False]


def test_a_constant_model_has_no_correlation():
    model = toys.classifier(toys.Function(lambda x: x.sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] * 0 + torch.ones(2)))
    found = measured(model, MAPS)
    assert found.values.isnan().all()
    assert found.undefined["the score does not vary between subsets"].all()
    assert not found.undefined["the map's sums do not vary between subsets"].any()


def test_all_units_at_once_leave_nothing_to_compare():
    found = measured(toys.classifier(NET), MAPS, fractions="50+100")
    assert found.values.isnan().all()
    assert found.curve.isnan().tolist() == [[False, True]] * 3


@pytest.mark.parametrize(
    "text", ["", "0", "abc", "10+", "10..", "20+10", "10+10", "101", "-5", "nan", "90..10", "0..50"]
)
def test_fractions_that_cannot_be_read_are_refused_with_a_form(text):
    with pytest.raises(UsageError, match=r"use increasing percentages such as 10\.\.90 or 10\+30\+50"):
        measured(toys.classifier(NET), MAPS, fractions=text)


def test_a_fraction_may_be_a_number():
    model = toys.classifier(NET)
    for number in (10, 12.5):
        assert torch.equal(
            measured(model, MAPS, fractions=number).curve, measured(model, MAPS, fractions=str(number)).curve
        )


def test_a_grid_finer_than_the_image_is_refused():
    with pytest.raises(UsageError, match="grid=9 is finer than the image of 8 x 10 pixels; use a smaller grid"):
        measured(toys.classifier(NET), MAPS, grid=9)
