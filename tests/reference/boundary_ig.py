"""BIG, one image at a time: an attack stored as a list of points, a bisection, and a trapezoid rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tests.reference.gradients import Network, Scalar, gradient


class Attack(NamedTuple):
    """Result of an attack: the end point, the steps taken, and whether the label changed."""

    end: Tensor
    steps: int
    changed: bool


def attack(
    network: Network, f: Scalar, image: Tensor, *, steps: int, step_size: float, radius: float | None, halvings: int
) -> Attack:
    """Descend f by signed steps until the label changes, then bisect the last step ``halvings`` times."""
    label = _label(network, image)
    points = [image]
    while len(points) <= steps and _label(network, points[-1]) == label:
        points.append(_step(points[-1], gradient(f, points[-1]), image, step_size, radius))
    if _label(network, points[-1]) == label:
        return Attack(points[-1], len(points) - 1, False)
    inside, outside = points[-2:]
    for _ in range(halvings):
        middle = (inside + outside) / 2
        if _label(network, middle) == label:
            inside = middle
        else:
            outside = middle
    return Attack(outside, len(points) - 1, True)


def official_attack(
    network: Network, f: Scalar, image: Tensor, *, steps: int, step_size: float, radius: float | None
) -> Attack:
    """Take all steps, each along the sign of the sum of all gradients so far."""
    point, history = image, []
    for _ in range(steps):
        history.append(gradient(f, point))
        point = _step(point, sum(history), image, step_size, radius)
    return Attack(point, steps, _label(network, point) != _label(network, image))


def trapezoid_of_captum(f: Scalar, image: Tensor, start: Tensor, steps: int) -> Tensor:
    """Integrate with nodes 0 .. 1 and weights 1/n, halved at the ends, which sum to (n - 1) / n."""
    total = torch.zeros_like(image)
    for k in range(steps):
        weight = (0.5 if k in (0, steps - 1) else 1) / steps
        total = total + weight * gradient(f, start + k / (steps - 1) * (image - start))
    return (image - start) * total


def _label(network: Network, image: Tensor) -> int:
    return int(network(image[None])[0].argmax())


def _step(point: Tensor, direction: Tensor, image: Tensor, step_size: float, radius: float | None) -> Tensor:
    moved = point - step_size * torch.sign(direction)
    if radius is not None:
        moved = image + (moved - image).clamp(-radius, radius)
    return moved.clamp(0, 1)
