"""Insertion and deletion: on images of four pixels, whose curves are written by hand, and against literal programs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor

import xplain
import xplain.pipelines.attribution
from tests.helpers import toys
from tests.reference.perturbation import area, ranking, replaced, rise_blur
from xplain.core.errors import UsageError
from xplain.core.registry import METRICS

# the probability of class 1 is the dot product of the image with these weights, which sum to one
WEIGHT = torch.tensor([[0.4, 0.3], [0.2, 0.1]], dtype=torch.float64)


def probability(x: Tensor) -> Tensor:
    """Of class 1: the mean over channels of sums of pixels times WEIGHT, between 0 and 1."""
    return (x * WEIGHT).sum(dim=(2, 3)).mean(dim=1)


def linear() -> xplain.Classifier:
    """Two classes with probabilities 1 - p and p, p linear in the pixels."""

    def logits(x: Tensor) -> Tensor:
        p = probability(x)
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    return toys.classifier(toys.Function(logits))


WHITE = torch.ones(1, 3, 2, 2, dtype=torch.float64)


def one(values: list[list[float]]) -> Tensor:
    """A map (1, 1, 2, 2)."""
    return torch.tensor(values, dtype=torch.float64)[None, None]


def measured(metric: str, maps: Tensor, images: Tensor = WHITE, **options) -> xplain.Score:
    options = {"steps": 4} | options
    return xplain.measure(linear(), images.expand(len(maps), -1, -1, -1), maps, metric, target=1, **options)


def curve(metric: str, maps: Tensor, **options) -> list[float]:
    return measured(metric, maps, **options).curve[0].tolist()


def near(values: list[float]):
    return pytest.approx(values, abs=1e-12)


PERFECT, WORST = one([[4, 3], [2, 1]]), one([[1, 2], [3, 4]])


# ------------------------------------------------------------------------------------------------- curves by hand


def test_the_perfect_map_deletes_the_heaviest_pixels_first():
    assert curve("deletion", PERFECT) == near([1, 0.6, 0.3, 0.1, 0])
    assert measured("deletion", PERFECT).values.tolist() == near([(0.5 + 0.6 + 0.3 + 0.1 + 0) / 4])


def test_the_worst_map_deletes_the_lightest_pixels_first():
    assert curve("deletion", WORST) == near([1, 0.9, 0.7, 0.4, 0])
    assert measured("deletion", WORST).values.tolist() == near([(0.5 + 0.9 + 0.7 + 0.4) / 4])


def test_insertion_goes_the_other_way():
    assert curve("insertion", PERFECT) == near([0, 0.4, 0.7, 0.9, 1])
    assert measured("insertion", PERFECT).values.tolist() == near([(0.4 + 0.7 + 0.9 + 0.5) / 4])
    assert curve("insertion", WORST) == near([0, 0.1, 0.3, 0.6, 1])


def test_no_order_beats_the_perfect_one_or_is_beaten_by_the_worst():
    maps = torch.tensor(list(permutations(range(4))), dtype=torch.float64).reshape(24, 1, 2, 2)
    for metric, best in (("deletion", torch.min), ("insertion", torch.max)):
        values = measured(metric, maps).values
        assert values.unique().numel() > 5
        assert best(values).item() == near(measured(metric, PERFECT).values.item())
        worst = values.max() if metric == "deletion" else values.min()
        assert worst.item() == near(measured(metric, WORST).values.item())


def test_a_constant_map_deletes_in_raster_order():
    for level in (0.0, -3.0, 7.0):
        assert curve("deletion", torch.full((1, 1, 2, 2), level)) == near([1, 0.6, 0.3, 0.1, 0])


def test_ties_keep_raster_order():
    assert curve("deletion", one([[0, 5], [5, 0]])) == near([1, 0.7, 0.5, 0.1, 0])
    assert curve("insertion", one([[0, 5], [5, 0]])) == near([0, 0.3, 0.5, 0.9, 1])
    assert curve("deletion", one([[-1, -1], [-1, 2]])) == near([1, 0.9, 0.5, 0.2, 0])


def test_ties_keep_raster_order_in_large_images_too():
    weight = torch.arange(1, 513, dtype=torch.float64).reshape(16, 32)
    weight /= weight.sum()

    def logits(x: Tensor) -> Tensor:
        p = (x.mean(dim=1) * weight).sum(dim=(1, 2))
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    images = torch.ones(1, 3, 16, 32, dtype=torch.float64)
    found = xplain.measure(
        toys.classifier(toys.Function(logits)), images, torch.zeros(1, 1, 16, 32), "insertion", target=1, steps=512
    )
    assert found.curve[0].tolist() == near([0.0, *weight.flatten().cumsum(0).tolist()])


def test_signed_values_are_ranked_by_value_not_by_size():
    assert curve("deletion", one([[-9, 1], [0, -8]])) == near([1, 0.7, 0.5, 0.4, 0])


def test_scaling_and_shifting_a_map_changes_nothing():
    maps = torch.tensor([[[[0.3, -0.1], [0.7, 0.2]]]], dtype=torch.float64)
    for other in (maps * 1e-12, maps * 1e12, maps + 5):
        assert torch.equal(measured("deletion", other).curve, measured("deletion", maps).curve)


# ------------------------------------------------------------------------------------------------- images and baselines


IMAGE = torch.tensor([[0.5, 1.0], [0.25, 0.75]], dtype=torch.float64).expand(1, 3, 2, 2)


def test_the_image_is_what_is_deleted_from_and_inserted():
    # contributions 0.2, 0.3, 0.05, 0.075
    assert curve("deletion", PERFECT, images=IMAGE) == near([0.625, 0.425, 0.125, 0.075, 0])
    assert curve("insertion", PERFECT, images=IMAGE) == near([0, 0.2, 0.5, 0.55, 0.625])


def test_removed_pixels_get_the_mean_colour_where_asked_for():
    def logits(x: Tensor) -> Tensor:  # the same probability although the classifier takes the mean off
        p = probability(x + 0.5)
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    model = toys.classifier(toys.Function(logits), mean=[0.5] * 3)
    found = xplain.measure(model, WHITE, PERFECT, "deletion", target=1, steps=4, baseline="mean")
    assert found.curve[0].tolist() == near([1, 0.8, 0.65, 0.55, 0.5])
    found = xplain.measure(model, WHITE, PERFECT, "insertion", target=1, steps=4, baseline="mean")
    assert found.curve[0].tolist() == near([0.5, 0.7, 0.85, 0.95, 1])


def blurred(image: Tensor, sigma: float = 5.0) -> Tensor:
    """Mirrored Gaussian of two pixels: the weight that stays on a pixel's own side, by hand."""
    radius = int(4 * sigma + 0.5)
    kernel = [pow(2.718281828459045, -0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    # positions 0 1 | 1 0 | 0 1 ...: an offset leads back to the pixel itself for k = 0, 3, 4, 7, 8, ... and -1, -4, -5, ...
    own = sum(w for k, w in zip(range(-radius, radius + 1), kernel, strict=True) if k % 4 in (0, 3)) / sum(kernel)
    mix = torch.tensor([[own, 1 - own], [1 - own, own]], dtype=torch.float64)
    return mix @ image @ mix.T


def test_removed_pixels_get_the_blurred_image_where_asked_for():
    blur = blurred(IMAGE[0, 0])
    contributions = (WEIGHT * IMAGE[0, 0]).flatten().tolist()
    replaced = (WEIGHT * blur).flatten().tolist()
    expected = [sum(replaced[:k]) + sum(contributions[k:]) for k in range(5)]
    assert curve("deletion", PERFECT, images=IMAGE, baseline="blur") == near(expected)
    expected = [sum(contributions[:k]) + sum(replaced[k:]) for k in range(5)]
    assert curve("insertion", PERFECT, images=IMAGE, baseline="blur") == near(expected)


@pytest.mark.parametrize("metric", ["deletion", "insertion"])
def test_two_baselines_are_averaged(metric):
    black, blur = (measured(metric, PERFECT, images=IMAGE, baseline=each) for each in ("black", "blur"))
    both = measured(metric, PERFECT, images=IMAGE, baseline="black+blur")
    assert both.curve[0].tolist() == near(((black.curve + blur.curve) / 2)[0].tolist())
    assert both.values.item() == near((black.values + blur.values).item() / 2)
    assert both.cost.forwards == 2 * black.cost.forwards == 10
    assert METRICS.get(metric).forwards(side=2, steps=4, baseline="black+blur") == 10


def test_an_unknown_baseline_is_refused():
    with pytest.raises(UsageError, match="deletion: baseline=grey is not accepted"):
        measured("deletion", PERFECT, baseline="grey")


def test_rises_blur_is_of_the_normalised_image():
    """Its zeros beyond the border are the mean colour, not black."""
    net, x = toys.small_net(1, scale=15.0), toys.images(1, 9, 12)
    found = xplain.measure(toys.with_pixels(net)[0], x, x, "insertion", target=3, steps=2, baseline="rise-blur")
    expected = net(rise_blur(toys.normalise(x[0]))[None]).softmax(dim=1)[0, 3].detach()
    toys.assert_same(found.curve[0, 0], expected)


# ------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [1, 0]),
        (2, [1, 0.3, 0]),
        (3, [1, 0.6, 0.1, 0]),  # 4/3 and 8/3 pixels: 1 and 3
        (5, [1, 0.6, 0.3, 0.3, 0.1, 0]),  # 0.8, 1.6, 2.4, 3.2, 4 pixels: 1, 2, 2, 3, 4
        (12, [1, 1, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0, 0]),
    ],
)
def test_steps_that_do_not_divide_replace_the_nearest_number_of_pixels(steps, expected):
    found = measured("deletion", PERFECT, steps=steps)
    assert found.curve[0].tolist() == near(expected)
    area = sum(expected) - (expected[0] + expected[-1]) / 2
    assert found.values.item() == near(area / steps)
    assert curve("insertion", PERFECT, steps=steps) == near([1 - each for each in expected])


@pytest.mark.parametrize("steps", [2, 3, 4, 6, 7])
def test_deleting_backwards_is_inserting_the_negated_map_without_ties(steps):
    maps = toys.images(3, 5, 6, seed=2)
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(3, 5, 6)
    deleted = xplain.measure(model, x, maps, "deletion", target=2, steps=steps)
    inserted = xplain.measure(model, x, -maps, "insertion", target=2, steps=steps)
    toys.assert_same(deleted.curve.flip(1), inserted.curve)
    toys.assert_same(deleted.values, inserted.values)


def test_the_ends_of_a_curve_are_the_image_and_the_baseline():
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(4)
    y = torch.tensor([0, 1, 2, 3])
    full = model(x).softmax(dim=1)[range(4), y].detach()
    empty = model(torch.zeros_like(x)).softmax(dim=1)[range(4), y].detach()
    for steps in (1, 3, 7, 80):
        found = xplain.measure(model, x, x, "deletion", target=y, steps=steps)
        toys.assert_same(found.curve[:, 0], full)
        toys.assert_same(found.curve[:, -1], empty)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_curves_do_not_depend_on_rows_a_call_or_on_other_images(batch_size):
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(4)
    maps = toys.images(4, seed=9)
    together = xplain.measure(model, x, maps, "insertion", target=2, steps=6, batch_size=batch_size)
    for i in range(4):
        alone = xplain.measure(model, x[i : i + 1], maps[i : i + 1], "insertion", target=2, steps=6)
        toys.assert_same(together.curve[i], alone.curve[0])
        toys.assert_same(together.values[i], alone.values[0])
    assert together.cost.forwards == 4 * 7


@pytest.mark.parametrize(("height", "width", "steps"), [(2, 2, 2), (5, 2, 5), (2, 6, 6)])
def test_without_a_number_there_are_as_many_steps_as_the_longer_side_has_pixels(height, width, steps):
    x = toys.images(1, height, width)
    found = xplain.measure(toys.classifier(toys.Function(lambda x: x.mean(dim=(2, 3)))), x, x, "deletion", target=1)
    assert found.curve.shape == (1, steps + 1)


SIDE = 299  # Inception's images


@pytest.mark.parametrize(
    ("steps", "each", "last"),
    [
        (None, {299: 299}, 299),  # the side
        (224, {399: 199, 400: 25}, 399),  # 399.1 a step, rounded in sum
        (400, {223: 199, 224: 201}, 224),  # 223.5 a step
    ],
)
def test_images_of_299_pixels(steps, each, last):
    generator = torch.Generator().manual_seed(5)
    maps, weight = (torch.rand(SIDE, SIDE, dtype=torch.float64, generator=generator) for _ in range(2))
    weight /= weight.sum()

    def logits(x: Tensor) -> Tensor:
        p = (x[:, 0] * weight).sum(dim=(1, 2))
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    model, white = toys.classifier(toys.Function(logits)), torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64)
    found = xplain.measure(model, white, maps[None, None], "deletion", target=1, steps=steps)
    counts = replaced(SIDE * SIDE, steps or SIDE)
    sizes = [b - a for a, b in pairwise(counts)]
    assert (Counter(sizes), sizes[-1]) == (each, last)
    weights, order, left = weight.flatten().tolist(), ranking(maps), [1.0]
    for at in order:
        left.append(left[-1] - weights[at])
    expected = [left[count] for count in counts]
    assert found.curve[0].tolist() == near(expected)
    assert found.values.item() == near(area(expected))
    assert found.cost.forwards == len(counts)


# ------------------------------------------------------------------------------------------------- the other readings


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 10, 30])
@pytest.mark.parametrize("baseline", ["black", "blur"])
def test_morf_is_deletion_and_lerf_insertion_read_backwards(steps, baseline):
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(3, 5, 6)
    options = {"target": 2, "steps": steps, "baseline": baseline}
    names = ("morf", "deletion", "lerf", "insertion")
    morf, deletion, lerf, insertion = (
        xplain.measure(model, x, toys.images(3, 5, 6, seed=2), name, **options) for name in names
    )
    toys.assert_same(morf.curve, deletion.curve)
    toys.assert_same(morf.values, deletion.values)
    toys.assert_same(lerf.curve, insertion.curve.flip(1))
    toys.assert_same(lerf.values, insertion.values)
    assert steps == 1 or (lerf.values - morf.values).abs().min() > 1e-4


def test_morf_and_lerf_by_hand():
    assert curve("morf", PERFECT, baseline="black") == near([1, 0.6, 0.3, 0.1, 0])
    assert curve("lerf", PERFECT, baseline="black") == near([1, 0.9, 0.7, 0.4, 0])
    assert measured("lerf", PERFECT, baseline="black").values.tolist() == near([2.5 / 4])


def test_ties_keep_raster_order_from_the_low_end_too():
    assert curve("lerf", one([[5, 0], [0, 5]]), baseline="black") == near([1, 0.7, 0.5, 0.1, 0])


def test_morf_and_lerf_take_20_steps_to_the_mean_colour():
    model, x = toys.with_pixels(toys.small_net(1, scale=15.0))[0], toys.images(2)
    for name, other in (("morf", "deletion"), ("lerf", "insertion")):
        found = xplain.measure(model, x, x, name, target=2)
        toys.assert_same(found.values, xplain.measure(model, x, x, other, target=2, steps=20, baseline="mean").values)


def test_the_difference_is_insertion_minus_deletion():
    expected = [-1, 0.4 - 0.6, 0.7 - 0.3, 0.9 - 0.1, 1]
    assert METRICS.get("difference").bounds == (min(expected), max(expected))
    found = measured("difference", PERFECT)
    assert found.curve[0].tolist() == near(expected)
    assert found.values.item() == near(area(expected))
    assert found.cost.forwards == 10
    assert measured("difference", PERFECT, area="mean").values.item() == near(sum(expected) / 5)


def test_an_area_can_be_the_plain_mean_of_the_values():
    for metric, expected in (("deletion", [1, 0.6, 0.3, 0.1, 0]), ("insertion", [0, 0.4, 0.7, 0.9, 1])):
        assert measured(metric, PERFECT, area="mean").values.item() == near(sum(expected) / 5)


# ------------------------------------------------------------------------------------------------- units


CHANNELS = torch.tensor(
    [
        [[8.0, 1.0], [2.0, 3.0]],  # order 0 3 2 1
        [[0.5, 9.0], [4.0, 5.0]],  # order 1 3 2 0
        [[0.1, 0.2], [7.0, 0.3]],  # order 2 3 1 0
    ],
    dtype=torch.float64,
)[None]


def test_pixels_are_ranked_by_the_sum_over_channels():
    # sums 8.6, 10.2, 13, 8.3: order 2 1 0 3
    assert curve("deletion", CHANNELS) == near([1, 0.8, 0.5, 0.1, 0])


def test_union_of_three_takes_a_pixel_that_any_channel_ranks_high():
    # step 1 takes pixels 0, 1 and 2, the first of each channel; step 2 takes pixel 3, the second of all
    assert curve("deletion", CHANNELS, unit="union3") == near([1, 0.1, 0, 0, 0])
    assert curve("insertion", CHANNELS, unit="union3") == near([0, 0.9, 1, 1, 1])


@pytest.mark.parametrize("unit", ["pixel", "union3", "scalar"])
def test_images_together_have_the_curves_that_they_have_alone(unit):
    maps = torch.cat([CHANNELS, CHANNELS.flip(1), CHANNELS.flip(3)])
    found = measured("deletion", maps, WHITE.repeat(3, 1, 1, 1), unit=unit).curve
    for alone, together in zip(maps.split(1), found, strict=True):
        assert together.tolist() == near(curve("deletion", alone, unit=unit))
    assert not torch.equal(found[0], found[2])


def test_scalars_are_ranked_and_replaced_one_by_one():
    # red 8, green 9, blue 7 at pixels 0, 1, 2 are among the first three of twelve
    order = [(1, 1), (0, 0), (2, 2), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1), (1, 0), (2, 3), (2, 1), (2, 0)]
    weights = WEIGHT.flatten().tolist()
    expected = [1.0]
    for _, pixel in order:
        expected.append(expected[-1] - weights[pixel] / 3)
    assert curve("deletion", CHANNELS, unit="scalar", steps=12) == near(expected)
    assert curve("deletion", CHANNELS, unit="scalar", steps=4) == near(expected[::3])
    assert curve("insertion", CHANNELS, unit="scalar", steps=12) == near([1 - each for each in expected])


@pytest.mark.parametrize("unit", ["pixel", "union3", "scalar"])
@pytest.mark.parametrize("metric", ["deletion", "insertion"])
def test_units_are_the_same_for_a_map_of_one_channel(unit, metric):
    assert curve(metric, PERFECT, unit=unit) == curve(metric, PERFECT)


def test_ties_of_scalars_keep_channel_then_raster_order():
    found = curve("deletion", torch.zeros(1, 3, 2, 2), unit="scalar", steps=3)
    assert found == near([1, 2 / 3, 1 / 3, 0])  # a channel a step
