"""AGI: Algorithms 1 and 2 of the paper, and the step of the authors' program, one false class at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.reference.gradients import Network, Scalar, gradient
from tests.reference.integrated_gradients import integrated_gradients


def climb(
    network: Network,
    score: Callable[[Network, int], Scalar],
    image: Tensor,
    target: int,
    false: int,
    step_size: float,
    steps: int,
    variant: str,
) -> tuple[Tensor, Tensor, int]:
    """Run Algorithm 1 for one false class. Returns the attribution, the last point and the number of steps.

    variant: ``paper`` starts each step at the previous point, ``official`` at the clean image.
    """
    total, point, taken = torch.zeros_like(image), image, 0
    while taken < steps and int(network(point[None])[0].argmax()) != false:
        origin = point if variant == "paper" else image
        next_point = (origin + step_size * gradient(score(network, false), point).sign()).clamp(0, 1)
        total = total - gradient(score(network, target), point) * (next_point - origin)
        point, taken = next_point, taken + 1
    return total, point, taken


def agi(
    network: Network,
    score: Callable[[Network, int], Scalar],
    image: Tensor,
    target: int,
    false_classes: list[int],
    *,
    step_size: float,
    steps: int,
    variant: str,
    path: str = "curve",
) -> Tensor:
    """Run Algorithm 2, the sum over the false classes; path=straight: integrated gradients from each end point (Fig. 4)."""
    total = torch.zeros_like(image)
    for false in false_classes:
        values, end, _ = climb(network, score, image, target, false, step_size, steps, variant)
        if path == "straight":
            values = integrated_gradients(score(network, target), image, end, steps, "gauss-legendre")
        total = total + values
    return total
