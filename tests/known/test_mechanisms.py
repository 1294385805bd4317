"""The truth of every written-down mechanism, by changing pixels and running the network; nothing is read from the planting code."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from xplain.known import MECHANISMS, Planted

BLOCK, SIDE = 4, 32
PATCH_SETS = [
    "linear-sparse",
    "linear-signed",
    "linear-graded",
    "rewritten",
    "gate",
    "and",
    "or",
    "saturated",
    "max",
    "min",
    "product",
    "xor",
    "cancel",
    "inhibit",
    "shatter",
    "absent",
    "two-of-three",
    "rivals",
]
WRITTEN = [name for name, mechanism in MECHANISMS.items() if not mechanism.trained]


@cache
def plant(name: str, group: int = 0) -> Planted:
    return MECHANISMS[name].plant(0, group)


def score(planted: Planted, images: Tensor) -> Tensor:
    with torch.no_grad():
        return planted.network(images)[:, 0]


def fill(image: Tensor, blocks: list[int], value: float | Tensor) -> Tensor:
    """Return the image (3, H, W) with a value in the given 4 x 4 blocks."""
    changed = image.clone()
    for block in blocks:
        top, left = BLOCK * (block // 8), BLOCK * (block % 8)
        changed[:, top : top + BLOCK, left : left + BLOCK] = value
    return changed


@cache
def influence(name: str) -> Tensor:
    """Return the largest change of the score (64,) when a block of the first image changes in 16 ways.

    Other relevant blocks are as they are, or any of them are black: one of several sufficient blocks matters only without the others.
    """
    planted = plant(name)
    generator = torch.Generator().manual_seed(3)
    image = planted.images[0]
    ways = [0.0, 1.0, 0.25, 0.5, 0.75, 0.6]
    ways += [torch.rand((3, BLOCK, BLOCK), generator=generator, dtype=torch.float64) * k / 10 for k in range(1, 11)]
    relevant = (blocks_of(planted.relevant[0]) != 0).nonzero()[:, 0].tolist()
    subsets = (
        [list(s) for size in range(3) for s in itertools.combinations(relevant, size)] if len(relevant) < 4 else [[]]
    )
    largest = torch.zeros(64, dtype=torch.float64)
    for subset in subsets:
        context = fill(image, subset, 0.0)
        changed = torch.stack([fill(context, [block], way) for block in range(64) for way in ways])
        change = (score(planted, changed) - score(planted, context[None])).abs()
        largest = torch.maximum(largest, change.reshape(64, len(ways)).amax(dim=1))
    return largest


def places(name: str, means: tuple[float, ...]) -> list[int]:
    """Return the blocks of the first image on which the score depends, in the order of their means."""
    image = plant(name).images[0]
    found = [block for block in range(64) if influence(name)[block] > 1e-9]
    assert len(found) == len(means)
    mean = {block: float(image.unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(0, 3, 4)).flatten()[block]) for block in found}
    ordered = []
    for value in means:
        block = next(block for block in found if block not in ordered and abs(mean[block] - value) < 1e-9)
        ordered.append(block)
    return ordered


def blocks_of(mask: Tensor) -> Tensor:
    """Return the value of each block of a map (1, H, W) that is constant in blocks: (64,)."""
    values = mask.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)[0]
    same = (values == values[..., :1]) | (values.isnan() & values[..., :1].isnan())
    assert bool(same.all())
    return values[..., 0].flatten()


@pytest.mark.parametrize("name", PATCH_SETS)
def test_score_depends_on_relevant_blocks_only(name):
    relevant = blocks_of(plant(name).relevant[0])
    change = influence(name)
    outside = change[relevant == 0]
    if name == "shatter":  # the wave is at most 0.02 high
        assert 0.005 < float(outside.max()) <= 0.02 + 1e-9
        assert int((outside > 1e-9).sum()) == 1
    else:
        assert float(outside.max()) < 1e-9
    assert float(change[relevant == 1].min()) > 0.01
    assert int((relevant == 1).sum()) + int(relevant.isnan().sum()) > 0


# Means of the patches; score; effects of removing each patch (black); Shapley values; integrated gradients from black; gradient.
# None: not stated in closed form.
TABLE = {
    "gate": ((0.8, 1), 0.8, (0.8, 0.8), (0.4, 0.4), (0.2286, 0.5714), (1, 2)),
    "and": ((1, 1), 1, (1, 1), (0.5, 0.5), (0.5, 0.5), (1, 1)),
    "or": ((1, 1), 1, (0, 0), (0.5, 0.5), (0.5, 0.5), (0, 0)),
    "saturated": ((1,), 1, (1,), (1,), (1,), (0,)),
    "max": ((0.9, 0.6), 0.9, (0.3, 0), (0.6, 0.3), (0.9, 0), (1, 0)),
    "min": ((0.9, 0.6), 0.6, (0.6, 0.6), (0.3, 0.3), (0, 0.6), (0, 1)),
    "product": ((0.9, 0.6), 0.54, (0.54, 0.54), (0.27, 0.27), (0.27, 0.27), (0.6, 0.9)),
    "xor": ((1, 0.4), 0.6, (0.2, -0.4), (0.6, 0), (1, -0.4), (1, -1)),
    "cancel": ((0.8, 1), 0, (0, -0.56), (0.28, -0.28), (0, 0), (0, 0)),
    "inhibit": ((0.8, 0.6), 0.5, (0.5, -0.3), (0.65, -0.15), (0.8, -0.3), (1, -0.5)),
    "absent": ((0.8, 0), 1.2, (0.4, 0), (0.4, 0), (0.4, 0), (0.5, -0.8)),
    "two-of-three": ((1, 1, 1), 1, (0, 0, 0), (1 / 3,) * 3, (1 / 3,) * 3, (0, 0, 0)),
    "rivals": ((0.8, 0.7), 1.5, (0.8, 0.7), (0.8, 0.7), (0.8, 0.7), (1, 1)),
}


@pytest.mark.parametrize("name", TABLE)
def test_closed_forms_equal_enumeration(name):
    means, value, removals, shapley, path, gradient = TABLE[name]
    planted, blocks = plant(name), places(name, means)
    image = planted.images[0]
    full = score(planted, planted.images)
    assert full.tolist() == pytest.approx([value] * 4, abs=1e-9)

    def without(removed: tuple[int, ...], color: float = 0.0) -> float:
        return float(score(planted, fill(image, [blocks[k] for k in removed], color)[None]))

    count = len(blocks)
    assert [value - without((k,)) for k in range(count)] == pytest.approx(removals, abs=1e-9)
    players = range(count)
    for k in players:
        total = 0.0
        for size in range(count):
            for others in itertools.combinations([j for j in players if j != k], size):
                absent = tuple(j for j in players if j not in (*others, k))
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                total += weight * (without(absent) - without((*absent, k)))
        assert total == pytest.approx(shapley[k], abs=1e-9)
    steps = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    points = (steps[:, None, None, None] * image).requires_grad_()
    (slopes,) = torch.autograd.grad(planted.network(points)[:, 0].sum(), points)
    parts = (slopes.mean(dim=0) * image).sum(dim=0)[None]
    sums = parts.unfold(1, 4, 4).unfold(2, 4, 4).sum(dim=(0, 3, 4)).flatten()
    assert sums[blocks].tolist() == pytest.approx(path, abs=2e-3)
    x = image[None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(planted.network(x)[0, 0], x)
    slope_of_means = slope[0].unfold(1, 4, 4).unfold(2, 4, 4).sum(dim=(0, 3, 4)).flatten()
    assert slope_of_means[blocks].tolist() == pytest.approx(gradient, abs=1e-9)
    if name == "absent":  # with a white baseline the second patch has the effect that black hides
        assert value - without((1,), 1.0) == pytest.approx(0.8, abs=1e-9)


@pytest.mark.parametrize(
    "name", ["linear-dense", "linear-sparse", "linear-signed", "linear-graded", "rewritten", "product", "position"]
)
def test_values_are_effects_of_blocks(name):
    """Linear scores: the value of a block is the effect of its removal, and values add up. The product shares its score evenly."""
    planted = plant(name)
    for i in range(2):
        image = planted.images[i]
        removed = torch.stack([fill(image, [block], 0.0) for block in range(64)])
        effects = score(planted, image[None]) - score(planted, removed)
        expected = effects / 2 if name == "product" else effects
        torch.testing.assert_close(planted.values[i], expected, rtol=0, atol=1e-9)
        black = score(planted, torch.zeros_like(image)[None])
        assert float(planted.values[i].sum()) == pytest.approx(float(score(planted, image[None]) - black), abs=1e-9)


@pytest.mark.parametrize("name", ["linear-signed", "xor", "cancel", "inhibit", "position"])
def test_signs_are_those_of_effects(name):
    planted = plant(name)
    image = planted.images[1]
    removed = torch.stack([fill(image, [block], 0.0) for block in range(64)])
    effects = (score(planted, image[None]) - score(planted, removed)).round(decimals=9)
    signs = planted.signs[1].unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)[0].flatten(0, 1)
    for block in range(64):
        for sign in signs[block].unique().tolist():
            if len(signs[block].unique()) == 1 and float(effects[block]) != 0:
                assert sign == float(effects[block].sign())


def test_graded_parts_are_in_the_order_of_their_effects():
    planted = plant("linear-graded")
    for i in range(4):
        for mask, effect in zip(planted.parts[i], planted.effects[i].tolist(), strict=True):
            removed = torch.where(mask[None] > 0, torch.zeros(3, SIDE, SIDE, dtype=torch.float64), planted.images[i])
            change = score(planted, planted.images[i][None]) - score(planted, removed[None])
            assert float(change) == pytest.approx(effect, abs=1e-9)
    weights = sorted(v for v in planted.network[2].weight[0].tolist() if v)
    assert weights == [2.0**k / 32 for k in range(6)]


def test_rewritten_network_is_the_linear_one():
    """The same images and scores, also outside [0, 1]: no unit is ever off."""
    planted, linear = plant("rewritten"), plant("linear-sparse")
    assert torch.equal(planted.images, linear.images)
    assert torch.equal(planted.relevant, linear.relevant)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(500, 3, SIDE, SIDE, generator=generator, dtype=torch.float64) * 2 - 0.5
    torch.testing.assert_close(score(planted, x), score(linear, x), rtol=0, atol=1e-9)
    lowest = []
    for layer in planted.network:
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            lowest.append(float(x.min().detach()))
    assert len(lowest) == 6
    assert min(lowest) > 1


@pytest.mark.parametrize("name", ["null", "gate-closed"])
def test_nothing_alone_changes_a_silent_score(name):
    planted = plant(name)
    assert (planted.relevant, planted.values, planted.parts) == (None, None, None)
    image = planted.images[0]
    value = {"null": 0.5, "gate-closed": 0.0}[name]
    black = torch.stack([fill(image, [block], 0.0) for block in range(64)])
    assert score(planted, black).tolist() == [value] * 64
    x = planted.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(planted.network(x)[:, 0].sum(), x)
    assert float(slope.abs().max()) == 0
    # no set of patches matters either: every subset of the two patches of the gate has the score 0
    steps = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None, None, None]
    assert score(planted, steps * image).tolist() == [value] * 50


def test_only_the_red_disc_changes_the_color_score():
    planted = plant("colour")
    for i in range(4):
        image, relevant = planted.images[i], planted.relevant[i, 0] == 1
        changed = image.repeat(SIDE**2, 1, 1, 1)
        pixels = torch.arange(SIDE**2)
        changed[pixels, :, pixels // SIDE, pixels % SIDE] = 0
        effects = score(planted, image[None]) - score(planted, changed)
        assert torch.equal(effects.reshape(SIDE, SIDE).abs() > 1e-12, relevant)
        assert 40 <= int(relevant.sum()) <= 52
        luminance = (image * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(dim=0)
        green = (image[0] == 0) & (image[2] == 0) & (image[1] > 0)
        assert float(luminance[green].mean()) == pytest.approx(float(luminance[relevant].mean()), abs=0.02)
        units = image[0] - image[1] - image[2] - 0.1  # all other units are off, with a margin
        assert float(units[~relevant].max()) <= -0.2


def test_only_stripes_of_one_direction_change_the_texture_score():
    for group in range(3):  # both directions
        planted = plant("texture", group)
        x = planted.images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(planted.network(x)[:, 0].sum(), x)
        moved = slope.abs().sum(dim=1, keepdim=True) > 0
        assert not bool((moved & (planted.relevant == 0)).any())
        assert float(moved[planted.relevant == 1].double().mean()) > 0.8
        units = planted.network[0](planted.images).flatten(1)
        counted = int((units.detach() > 0).sum(dim=1).min())
        assert counted > 5
        crossed = planted.images.amax(dim=1) > 0.9  # both squares have the same contrast
        assert int(crossed.flatten(1).sum(dim=1).min()) == 2 * 16
    kernels = [plant("texture", group).network[0].weight[0, 0] for group in range(3)]
    directions = {bool((kernel.sum(dim=1).abs() < 1e-12).all()) for kernel in kernels}
    assert directions == {True, False}


def test_every_dot_counts_one():
    planted = plant("count")
    assert planted.is_even
    assert score(planted, planted.images).tolist() == pytest.approx([1, 2, 3, 4], abs=1e-12)
    for i in range(4):
        image = planted.images[i]
        present = [k for k in range(4) if bool(planted.parts[i, k].any())]
        assert len(present) == i + 1
        for k in present:
            removed = image * (1 - planted.parts[i, k])
            assert float(score(planted, image[None]) - score(planted, removed[None])) == pytest.approx(1, abs=1e-12)
        outside = torch.where(planted.relevant[i] > 0, image, torch.zeros_like(image))
        assert float(score(planted, outside[None])) == pytest.approx(i + 1, abs=1e-12)
        assert planted.effects[i].nan_to_num(0).tolist() == [1.0] * (i + 1) + [0.0] * (3 - i)


def test_rivals_differ_in_the_second_patch_only():
    planted, (first, second) = plant("rivals"), places("rivals", (0.8, 0.7))
    image = planted.images[0]
    with torch.no_grad():
        logits = planted.network(torch.stack([image, fill(image, [first], 0.0), fill(image, [second], 0.0)]))
    margins = (logits[:, 0] - logits[:, 1]).tolist()
    assert margins == pytest.approx([0.7, 0.7, 0.0], abs=1e-12)
    blocks = blocks_of(planted.relevant_to_others[0])
    assert math.isnan(float(blocks[first]))
    assert float(blocks[second]) == 1
    assert int((blocks == 0).sum()) == 62


@pytest.mark.parametrize("name", WRITTEN)
def test_draws_are_reproducible_and_differ(name):
    first, again, other = (MECHANISMS[name].plant(seed, 1) for seed in (5, 5, 6))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert float(first.images.min()) >= 0
    assert float(first.images.max()) <= 1
    assert first.images.shape == (4, 3, SIDE, SIDE)
    assert not torch.equal(first.images, MECHANISMS[name].plant(5, 0).images)


def test_content_does_not_tell_relevant_patches():
    """Half of the noise patches have the mean of a relevant one."""
    planted = plant("gate")
    means = planted.images[0].unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(0, 3, 4)).flatten()
    alike = ((means - 0.8).abs() < 1e-9) | ((means - 1).abs() < 1e-9)
    assert int(alike.sum()) == 2 + 31
    gray = planted.images[3].unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(0, 3, 4)).flatten()
    assert int(((gray - 0.5).abs() < 1e-9).sum()) == 62


def test_there_are_26_mechanisms_and_the_null():
    assert len(MECHANISMS) == 27
    kinds = [mechanism.kind for mechanism in MECHANISMS.values()]
    assert (kinds.count("set"), kinds.count("value"), kinds.count("silence"), kinds.count("parts")) == (22, 2, 2, 1)
