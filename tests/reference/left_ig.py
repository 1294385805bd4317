"""Left-IG, literally: the gradients of the nodes before the score first exceeds a share of its maximum."""

from __future__ import annotations

from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def left_ig(f: Scalar, x: Tensor, start: Tensor, steps: int, cutoff: float) -> tuple[Tensor, int]:
    """Return the attribution of one image (C, H, W), and the number of nodes in the left part."""
    points = [start + k / steps * (x - start) for k in range(steps + 1)]
    scores = [f(point).item() for point in points]
    end = next((k for k in range(steps + 1) if scores[k] > cutoff * max(scores)), steps)
    end = max(end, 1)
    total = sum(gradient(f, point) for point in points[:end])
    return (x - start) * total / steps, end
