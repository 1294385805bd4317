"""Mechanisms in which a few patch means interact through ReLUs."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor, nn

from xplain.known.patches import (
    PATCHES,
    draw_images,
    linear,
    patch_means,
    place_columns,
    place_values,
    plant_units,
    relu_network,
    spread_values,
)
from xplain.known.registry import mechanism
from xplain.known.truth import Draw, Planted

WAVES = 50.3  # periods of the small wave of ``shatter`` per unit of the patch mean
HEIGHT = 0.02  # of the wave


@mechanism("gate", kind="set", summary="ReLU(a1 - 2 (1 - a2)) at (0.8, 1): the second patch lets the first one through")
def gate(draw: Draw) -> Planted:
    """Shapley values (0.4, 0.4); without either patch the score is 0."""
    return plant_units(draw, (0.8, 1), [((1, 2), -2)], [1])


@mechanism(
    "gate-closed", kind="silence", summary="ReLU(a1 - 2 (1 - a2)) at (0.8, 0): no patch alone changes the score from 0"
)
def gate_closed(draw: Draw) -> Planted:
    """The gradient, the effect of each removal and the Shapley values from black are 0."""
    planted = plant_units(draw, (0.8, 0), [((1, 2), -2)], [1])
    return Planted(planted.network, planted.images)


@mechanism("and", kind="set", summary="ReLU(a1 + a2 - 1) at (1, 1)")
def both(draw: Draw) -> Planted:
    """Shapley values (½, ½); without either patch the score is 0."""
    return plant_units(draw, (1, 1), [((1, 1), -1)], [1])


@mechanism("or", kind="set", summary="1 - ReLU(1 - a1 - a2) at (1, 1): either patch is enough")
def either(draw: Draw) -> Planted:
    """Shapley values (½, ½); the gradient and the effect of removing one patch are 0."""
    return plant_units(draw, (1, 1), [((-1, -1), 1)], [-1], 1)


@mechanism("saturated", kind="set", summary="1 - ReLU(1 - 2 a1) at 1: the gradient is 0")
def saturated(draw: Draw) -> Planted:
    """The effect of removing the patch is 1."""
    return plant_units(draw, (1,), [((-2,), 1)], [-1], 1)


@mechanism("max", kind="set", summary="max(a1, a2) at (0.9, 0.6); the second patch is not scored")
def maximum(draw: Draw) -> Planted:
    """Shapley values (0.6, 0.3), integrated gradients (0.9, 0): whether the second patch matters is a convention."""
    return plant_units(draw, (0.9, 0.6), [((0, 1), 0), ((1, -1), 0)], [1, 1], relevant=(1, nan))


@mechanism("min", kind="set", summary="min(a1, a2) at (0.9, 0.6): the score needs both patches")
def minimum(draw: Draw) -> Planted:
    """Shapley values (0.3, 0.3); without either patch the score is 0. The gradient and integrated gradients are 0 at the first."""
    return plant_units(draw, (0.9, 0.6), [((1, 0), 0), ((1, -1), 0)], [1, -1])


class Square(nn.Module):
    """The square of each value."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x²."""
        return x * x


@mechanism("product", kind="set", summary="a1 a2 at (0.9, 0.6), by squares")
def product(draw: Draw) -> Planted:
    """((a1 + a2)² - (a1 - a2)²) / 4; Shapley values and integrated gradients (0.27, 0.27)."""
    places = draw.order(PATCHES)[:2]
    images = draw_images(draw, places, torch.tensor([0.9, 0.6], dtype=torch.float64).expand(draw.count, 2))
    first = linear(place_columns(torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64), places), torch.zeros(2))
    last = linear(torch.tensor([[0.25, -0.25], [0, 0]]), torch.zeros(2))
    return Planted(
        nn.Sequential(patch_means(), nn.Flatten(), first, Square(), last),
        images,
        relevant=spread_values(draw.count, places, (1, 1)),
        values=place_values(draw.count, places, (0.27, 0.27)),
    )


@mechanism("xor", kind="set", summary="|a1 - a2| at (1, 0.4)")
def exclusive_or(draw: Draw) -> Planted:
    """Gradient (1, -1), Shapley values (0.6, 0), effects of removals (0.2, -0.4)."""
    return plant_units(draw, (1, 0.4), [((1, -1), 0), ((-1, 1), 0)], [1, 1], signs=(1, -1))


@mechanism("cancel", kind="set", summary="0.7 a at 0.8, which a second patch at 1 switches off: the score is 0")
def cancel(draw: Draw) -> Planted:
    """ReLU(0.7 a - 100 c) - ReLU(-0.7 a - 100 c); Shapley values (0.28, -0.28). Gradients are 0, also on the path from black."""
    return plant_units(draw, (0.8, 1), [((0.7, -100), 0), ((-0.7, -100), 0)], [1, -1], signs=(1, -1))


@mechanism("inhibit", kind="set", summary="ReLU(a1 - a2 / 2) at (0.8, 0.6): the second patch counts against the score")
def inhibit(draw: Draw) -> Planted:
    """Shapley values (0.65, -0.15), integrated gradients (0.8, -0.3)."""
    return plant_units(draw, (0.8, 0.6), [((1, -0.5), 0)], [1], signs=(1, -1))


@mechanism("shatter", kind="set", summary="a1 plus a wave of a2 that is steep and at most 0.02 high")
def shatter(draw: Draw) -> Planted:
    """a1 + 0.02 tri(50.3 a2) at (0.8, 0.6), with the triangle wave tri of period 1 in [0, 1]: its slope is ±2.012, its effect ≤ 0.02."""
    kinks = range(1, int(2 * WAVES) + 1)
    units: list[tuple[tuple[float, float], float]] = [((1, 0), 0), ((0, 2 * WAVES), 0)]
    units += [((0, 2 * WAVES), -float(kink)) for kink in kinks]
    output = [1, HEIGHT, *(-2 * HEIGHT if kink % 2 else 2 * HEIGHT for kink in kinks)]
    return plant_units(draw, (0.8, 0.6), units, output, relevant=(1, 0))


@mechanism("absent", kind="set", summary="a1 / 2 + 0.8 (1 - a2) at (0.8, 0): a black patch counts for the score")
def absent(draw: Draw) -> Planted:
    """Methods that compare with a black image cannot see the second patch; with a white one it has the effect 0.8."""
    return plant_units(draw, (0.8, 0), [((1, 0), 0), ((0, -1), 1)], [0.5, 0.8])


@mechanism("two-of-three", kind="set", summary="ReLU(Σ a - 1) - ReLU(Σ a - 2) at (1, 1, 1): any two patches are enough")
def two_of_three(draw: Draw) -> Planted:
    """Shapley values ⅓ each; the gradient and the effect of removing one patch are 0."""
    return plant_units(draw, (1, 1, 1), [((1, 1, 1), -1), ((1, 1, 1), -2)], [1, -1])


@mechanism("rivals", kind="set", summary="logits A + B, A and 0 at (0.8, 0.7); scores that compare classes need only B")
def rivals(draw: Draw) -> Planted:
    """The logit of class 0 depends on both patches; its difference from that of class 1 on the second only."""
    places = draw.order(PATCHES)[:2]
    images = draw_images(draw, places, torch.tensor([0.8, 0.7], dtype=torch.float64).expand(draw.count, 2))
    network = relu_network(places, [((1, 0), 0), ((0, 1), 0)], [[1, 1], [1, 0]], [0, 0])
    return Planted(
        network,
        images,
        relevant=spread_values(draw.count, places, (1, 1)),
        relevant_to_others=spread_values(draw.count, places, (nan, 1)),
    )
