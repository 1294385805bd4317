"""Perturbation curves of images of four pixels, by hand, and of larger images against reference code."""

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

# The probability of class 1 is the dot product of the image with these weights, which sum to one.
WEIGHT = torch.tensor([[0.4, 0.3], [0.2, 0.1]], dtype=torch.float64)


def probability(x: Tensor) -> Tensor:
    """Return the probability of class 1: the weighted sum of pixels, averaged over channels, in [0, 1]."""
    return (x * WEIGHT).sum(dim=(2, 3)).mean(dim=1)


def make_linear_classifier() -> xplain.Classifier:
    """Return a classifier of two classes with probabilities 1 - p and p, where p is linear in the pixels."""

    def logits(x: Tensor) -> Tensor:
        p = probability(x)
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    return toys.classifier(toys.Function(logits))


WHITE = torch.ones(1, 3, 2, 2, dtype=torch.float64)


def make_map(values: list[list[float]]) -> Tensor:
    """Return a map (1, 1, 2, 2)."""
    return torch.tensor(values, dtype=torch.float64)[None, None]


def compute_score(metric: str, maps: Tensor, images: Tensor = WHITE, **options) -> xplain.Score:
    options = {"steps": 4} | options
    return xplain.measure(
        make_linear_classifier(), images.expand(len(maps), -1, -1, -1), maps, metric, target=1, **options
    )


def compute_curve(metric: str, maps: Tensor, **options) -> list[float]:
    return compute_score(metric, maps, **options).curve[0].tolist()


def approx(values: list[float]):
    return pytest.approx(values, abs=1e-12)


PERFECT, WORST = make_map([[4, 3], [2, 1]]), make_map([[1, 2], [3, 4]])


def test_deletion_perfect_map_by_hand():
    assert compute_curve("deletion", PERFECT) == approx([1, 0.6, 0.3, 0.1, 0])
    assert compute_score("deletion", PERFECT).values.tolist() == approx([(0.5 + 0.6 + 0.3 + 0.1 + 0) / 4])


def test_deletion_worst_map_by_hand():
    assert compute_curve("deletion", WORST) == approx([1, 0.9, 0.7, 0.4, 0])
    assert compute_score("deletion", WORST).values.tolist() == approx([(0.5 + 0.9 + 0.7 + 0.4) / 4])


def test_insertion_by_hand():
    assert compute_curve("insertion", PERFECT) == approx([0, 0.4, 0.7, 0.9, 1])
    assert compute_score("insertion", PERFECT).values.tolist() == approx([(0.4 + 0.7 + 0.9 + 0.5) / 4])
    assert compute_curve("insertion", WORST) == approx([0, 0.1, 0.3, 0.6, 1])


def test_perfect_map_scores_best():
    maps = torch.tensor(list(permutations(range(4))), dtype=torch.float64).reshape(24, 1, 2, 2)
    for metric, best in (("deletion", torch.min), ("insertion", torch.max)):
        values = compute_score(metric, maps).values
        assert values.unique().numel() > 5
        assert best(values).item() == approx(compute_score(metric, PERFECT).values.item())
        worst = values.max() if metric == "deletion" else values.min()
        assert worst.item() == approx(compute_score(metric, WORST).values.item())


def test_constant_map_uses_raster_order():
    for level in (0.0, -3.0, 7.0):
        assert compute_curve("deletion", torch.full((1, 1, 2, 2), level)) == approx([1, 0.6, 0.3, 0.1, 0])


def test_ties_keep_raster_order():
    assert compute_curve("deletion", make_map([[0, 5], [5, 0]])) == approx([1, 0.7, 0.5, 0.1, 0])
    assert compute_curve("insertion", make_map([[0, 5], [5, 0]])) == approx([0, 0.3, 0.5, 0.9, 1])
    assert compute_curve("deletion", make_map([[-1, -1], [-1, 2]])) == approx([1, 0.9, 0.5, 0.2, 0])


def test_ties_in_large_images():
    weight = torch.arange(1, 513, dtype=torch.float64).reshape(16, 32)
    weight /= weight.sum()

    def logits(x: Tensor) -> Tensor:
        p = (x.mean(dim=1) * weight).sum(dim=(1, 2))
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    images = torch.ones(1, 3, 16, 32, dtype=torch.float64)
    score = xplain.measure(
        toys.classifier(toys.Function(logits)), images, torch.zeros(1, 1, 16, 32), "insertion", target=1, steps=512
    )
    assert score.curve[0].tolist() == approx([0.0, *weight.flatten().cumsum(0).tolist()])


def test_negative_values_rank_lowest():
    assert compute_curve("deletion", make_map([[-9, 1], [0, -8]])) == approx([1, 0.7, 0.5, 0.4, 0])


def test_curve_ignores_scale_and_shift():
    maps = torch.tensor([[[[0.3, -0.1], [0.7, 0.2]]]], dtype=torch.float64)
    for other in (maps * 1e-12, maps * 1e12, maps + 5):
        assert torch.equal(compute_score("deletion", other).curve, compute_score("deletion", maps).curve)


IMAGE = torch.tensor([[0.5, 1.0], [0.25, 0.75]], dtype=torch.float64).expand(1, 3, 2, 2)


def test_curves_of_non_white_image():
    # contributions 0.2, 0.3, 0.05, 0.075
    assert compute_curve("deletion", PERFECT, images=IMAGE) == approx([0.625, 0.425, 0.125, 0.075, 0])
    assert compute_curve("insertion", PERFECT, images=IMAGE) == approx([0, 0.2, 0.5, 0.55, 0.625])


def test_baseline_mean_by_hand():
    def logits(x: Tensor) -> Tensor:  # adds the mean that the classifier subtracts
        p = probability(x + 0.5)
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    model = toys.classifier(toys.Function(logits), mean=[0.5] * 3)
    score = xplain.measure(model, WHITE, PERFECT, "deletion", target=1, steps=4, baseline="mean")
    assert score.curve[0].tolist() == approx([1, 0.8, 0.65, 0.55, 0.5])
    score = xplain.measure(model, WHITE, PERFECT, "insertion", target=1, steps=4, baseline="mean")
    assert score.curve[0].tolist() == approx([0.5, 0.7, 0.85, 0.95, 1])


def blur_by_hand(image: Tensor, sigma: float = 5.0) -> Tensor:
    """Return an image (2, 2) under a Gaussian blur with mirrored borders, by hand."""
    radius = int(4 * sigma + 0.5)
    kernel = [pow(2.718281828459045, -0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    # pixels repeat as 0 1 | 1 0 | 0 1 ..., so the offsets k = 0, 3, 4, 7, 8, ... and -1, -4, -5, ... are the pixel itself
    weight = sum(w for k, w in zip(range(-radius, radius + 1), kernel, strict=True) if k % 4 in (0, 3)) / sum(kernel)
    mix = torch.tensor([[weight, 1 - weight], [1 - weight, weight]], dtype=torch.float64)
    return mix @ image @ mix.T


def test_baseline_blur_by_hand():
    blur = blur_by_hand(IMAGE[0, 0])
    contributions = (WEIGHT * IMAGE[0, 0]).flatten().tolist()
    replaced = (WEIGHT * blur).flatten().tolist()
    expected = [sum(replaced[:k]) + sum(contributions[k:]) for k in range(5)]
    assert compute_curve("deletion", PERFECT, images=IMAGE, baseline="blur") == approx(expected)
    expected = [sum(contributions[:k]) + sum(replaced[k:]) for k in range(5)]
    assert compute_curve("insertion", PERFECT, images=IMAGE, baseline="blur") == approx(expected)


@pytest.mark.parametrize("metric", ["deletion", "insertion"])
def test_baseline_pair_is_averaged(metric):
    black, blur = (compute_score(metric, PERFECT, images=IMAGE, baseline=baseline) for baseline in ("black", "blur"))
    both = compute_score(metric, PERFECT, images=IMAGE, baseline="black+blur")
    assert both.curve[0].tolist() == approx(((black.curve + blur.curve) / 2)[0].tolist())
    assert both.values.item() == approx((black.values + blur.values).item() / 2)
    assert both.cost.forwards == 2 * black.cost.forwards == 10
    assert METRICS.get(metric).forwards(side=2, steps=4, baseline="black+blur") == 10


def test_baseline_unknown_is_rejected():
    with pytest.raises(UsageError, match="deletion: invalid value baseline=grey"):
        compute_score("deletion", PERFECT, baseline="grey")


def test_rise_blur_of_normalized_image():
    """Zero padding means the mean color, not black."""
    net, x = toys.small_net(1, scale=15.0), toys.images(1, 9, 12)
    score = xplain.measure(toys.with_pixels(net)[0], x, x, "insertion", target=3, steps=2, baseline="rise-blur")
    expected = net(rise_blur(toys.normalise(x[0]))[None]).softmax(dim=1)[0, 3].detach()
    toys.assert_same(score.curve[0, 0], expected)


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
def test_steps_round_to_nearest_count(steps, expected):
    score = compute_score("deletion", PERFECT, steps=steps)
    assert score.curve[0].tolist() == approx(expected)
    area = sum(expected) - (expected[0] + expected[-1]) / 2
    assert score.values.item() == approx(area / steps)
    assert compute_curve("insertion", PERFECT, steps=steps) == approx([1 - value for value in expected])


@pytest.mark.parametrize("steps", [2, 3, 4, 6, 7])
def test_reversed_deletion_inserts_negated_map(steps):
    maps = toys.images(3, 5, 6, seed=2)
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(3, 5, 6)
    deleted = xplain.measure(model, x, maps, "deletion", target=2, steps=steps)
    inserted = xplain.measure(model, x, -maps, "insertion", target=2, steps=steps)
    toys.assert_same(deleted.curve.flip(1), inserted.curve)
    toys.assert_same(deleted.values, inserted.values)


def test_curve_ends_at_baseline():
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(4)
    y = torch.tensor([0, 1, 2, 3])
    full = model(x).softmax(dim=1)[range(4), y].detach()
    empty = model(torch.zeros_like(x)).softmax(dim=1)[range(4), y].detach()
    for steps in (1, 3, 7, 80):
        score = xplain.measure(model, x, x, "deletion", target=y, steps=steps)
        toys.assert_same(score.curve[:, 0], full)
        toys.assert_same(score.curve[:, -1], empty)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_curve_is_independent_of_batch(batch_size):
    model, x = toys.classifier(toys.small_net(1, scale=15.0)), toys.images(4)
    maps = toys.images(4, seed=9)
    together = xplain.measure(model, x, maps, "insertion", target=2, steps=6, batch_size=batch_size)
    for i in range(4):
        alone = xplain.measure(model, x[i : i + 1], maps[i : i + 1], "insertion", target=2, steps=6)
        toys.assert_same(together.curve[i], alone.curve[0])
        toys.assert_same(together.values[i], alone.values[0])
    assert together.cost.forwards == 4 * 7


@pytest.mark.parametrize(("height", "width", "steps"), [(2, 2, 2), (5, 2, 5), (2, 6, 6)])
def test_steps_default_to_longer_side(height, width, steps):
    x = toys.images(1, height, width)
    score = xplain.measure(toys.classifier(toys.Function(lambda x: x.mean(dim=(2, 3)))), x, x, "deletion", target=1)
    assert score.curve.shape == (1, steps + 1)


SIDE = 299  # Inception's images


@pytest.mark.parametrize(
    ("steps", "sizes", "last"),
    [
        (None, {299: 299}, 299),  # one step per pixel of the side
        (224, {399: 199, 400: 25}, 399),  # 399.1 per step; the sums are rounded
        (400, {223: 199, 224: 201}, 224),  # 223.5 per step
    ],
)
def test_images_of_299_pixels(steps, sizes, last):
    generator = torch.Generator().manual_seed(5)
    maps, weight = (torch.rand(SIDE, SIDE, dtype=torch.float64, generator=generator) for _ in range(2))
    weight /= weight.sum()

    def logits(x: Tensor) -> Tensor:
        p = (x[:, 0] * weight).sum(dim=(1, 2))
        return torch.stack([1 - p, p], dim=1).clamp(min=1e-300).log()

    model, white = toys.classifier(toys.Function(logits)), torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64)
    score = xplain.measure(model, white, maps[None, None], "deletion", target=1, steps=steps)
    counts = replaced(SIDE * SIDE, steps or SIDE)
    differences = [b - a for a, b in pairwise(counts)]
    assert (Counter(differences), differences[-1]) == (sizes, last)
    weights, order, left = weight.flatten().tolist(), ranking(maps), [1.0]
    for at in order:
        left.append(left[-1] - weights[at])
    expected = [left[count] for count in counts]
    assert score.curve[0].tolist() == approx(expected)
    assert score.values.item() == approx(area(expected))
    assert score.cost.forwards == len(counts)


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 10, 30])
@pytest.mark.parametrize("baseline", ["black", "blur"])
def test_morf_lerf_match_deletion_insertion(steps, baseline):
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


def test_morf_lerf_by_hand():
    assert compute_curve("morf", PERFECT, baseline="black") == approx([1, 0.6, 0.3, 0.1, 0])
    assert compute_curve("lerf", PERFECT, baseline="black") == approx([1, 0.9, 0.7, 0.4, 0])
    assert compute_score("lerf", PERFECT, baseline="black").values.tolist() == approx([2.5 / 4])


def test_lerf_ties_keep_raster_order():
    assert compute_curve("lerf", make_map([[5, 0], [0, 5]]), baseline="black") == approx([1, 0.7, 0.5, 0.1, 0])


def test_morf_lerf_defaults():
    model, x = toys.with_pixels(toys.small_net(1, scale=15.0))[0], toys.images(2)
    for name, other in (("morf", "deletion"), ("lerf", "insertion")):
        score = xplain.measure(model, x, x, name, target=2)
        toys.assert_same(score.values, xplain.measure(model, x, x, other, target=2, steps=20, baseline="mean").values)


def test_difference_subtracts_deletion():
    expected = [-1, 0.4 - 0.6, 0.7 - 0.3, 0.9 - 0.1, 1]
    assert METRICS.get("difference").bounds == (min(expected), max(expected))
    score = compute_score("difference", PERFECT)
    assert score.curve[0].tolist() == approx(expected)
    assert score.values.item() == approx(area(expected))
    assert score.cost.forwards == 10
    assert compute_score("difference", PERFECT, area="mean").values.item() == approx(sum(expected) / 5)


def test_area_mean_averages_values():
    for metric, expected in (("deletion", [1, 0.6, 0.3, 0.1, 0]), ("insertion", [0, 0.4, 0.7, 0.9, 1])):
        assert compute_score(metric, PERFECT, area="mean").values.item() == approx(sum(expected) / 5)


CHANNELS = torch.tensor(
    [
        [[8.0, 1.0], [2.0, 3.0]],  # order 0 3 2 1
        [[0.5, 9.0], [4.0, 5.0]],  # order 1 3 2 0
        [[0.1, 0.2], [7.0, 0.3]],  # order 2 3 1 0
    ],
    dtype=torch.float64,
)[None]


def test_unit_pixel_sums_over_channels():
    # sums 8.6, 10.2, 13, 8.3: order 2 1 0 3
    assert compute_curve("deletion", CHANNELS) == approx([1, 0.8, 0.5, 0.1, 0])


def test_unit_union3_uses_any_channel():
    # step 1 takes pixels 0, 1 and 2, the first of each channel; step 2 takes pixel 3, the second of all
    assert compute_curve("deletion", CHANNELS, unit="union3") == approx([1, 0.1, 0, 0, 0])
    assert compute_curve("insertion", CHANNELS, unit="union3") == approx([0, 0.9, 1, 1, 1])


@pytest.mark.parametrize("unit", ["pixel", "union3", "scalar"])
def test_units_are_independent_of_batch(unit):
    maps = torch.cat([CHANNELS, CHANNELS.flip(1), CHANNELS.flip(3)])
    curves = compute_score("deletion", maps, WHITE.repeat(3, 1, 1, 1), unit=unit).curve
    for alone, together in zip(maps.split(1), curves, strict=True):
        assert together.tolist() == approx(compute_curve("deletion", alone, unit=unit))
    assert not torch.equal(curves[0], curves[2])


def test_unit_scalar_replaces_single_values():
    # red 8, green 9, blue 7 at pixels 0, 1, 2 are among the first three of twelve
    order = [(1, 1), (0, 0), (2, 2), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1), (1, 0), (2, 3), (2, 1), (2, 0)]
    weights = WEIGHT.flatten().tolist()
    expected = [1.0]
    for _, pixel in order:
        expected.append(expected[-1] - weights[pixel] / 3)
    assert compute_curve("deletion", CHANNELS, unit="scalar", steps=12) == approx(expected)
    assert compute_curve("deletion", CHANNELS, unit="scalar", steps=4) == approx(expected[::3])
    assert compute_curve("insertion", CHANNELS, unit="scalar", steps=12) == approx([1 - value for value in expected])


@pytest.mark.parametrize("unit", ["pixel", "union3", "scalar"])
@pytest.mark.parametrize("metric", ["deletion", "insertion"])
def test_units_agree_for_one_channel(unit, metric):
    assert compute_curve(metric, PERFECT, unit=unit) == compute_curve(metric, PERFECT)


def test_unit_scalar_ties_keep_order():
    curve = compute_curve("deletion", torch.zeros(1, 3, 2, 2), unit="scalar", steps=3)
    assert curve == approx([1, 2 / 3, 1 / 3, 0])  # one channel per step
