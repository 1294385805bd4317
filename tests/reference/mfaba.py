"""MFABA: first the whole path, stored in lists, then the sums over it."""

from itertools import pairwise

import torch
from torch import Tensor

from tests.reference.gradients import Network, Scalar, gradient


def descend(
    network: Network,
    f: Scalar,
    image: Tensor,
    target: int,
    *,
    ascent: str,
    step_size: float,
    steps: int,
    radius: float | None = None,
) -> list[Tensor]:
    """Return x_0 .. x_n: steps of η m(-∇f) inside [0, 1] and the cube of ``radius``, until the label differs from the target."""
    points = [image]
    while len(points) <= steps:
        slope = gradient(f, points[-1])
        direction = slope.sign() if ascent == "smooth" else unit(slope)
        next_point = points[-1] - step_size * direction
        if radius is not None:
            next_point = torch.maximum(torch.minimum(next_point, image + radius), image - radius)
        points.append(next_point.clamp(0, 1))
        if int(network(points[-1][None])[0].argmax()) != target:
            break
    return points


def unit(slope: Tensor) -> Tensor:
    """Return a gradient divided by its L2 norm; zero stays zero."""
    norm = float((slope**2).sum()) ** 0.5
    return slope / norm if norm > 0 else torch.zeros_like(slope)


def attribute(
    f: Scalar, points: list[Tensor], *, rule: str = "trapezoid", path: str = "curve", aggressive_only: bool = False
) -> Tensor:
    """Return -Σ_j ḡ_j ⊙ (x_{j+1} - x_j); norm, cosine: (x_0 - x_n) ⊙ Σ_j ḡ_j (t_{j+1} - t_j) (Eq. 11, 16, 17)."""
    gradients = [gradient(f, point) for point in points]
    scores = [float(f(point).detach()) for point in points]
    shares = line_shares(points, path)
    total = torch.zeros_like(points[0])
    for j in range(len(points) - 1):
        if aggressive_only and max(scores[j], scores[j + 1]) > scores[0]:
            continue
        mean = gradients[j] if rule == "left" else (gradients[j] + gradients[j + 1]) / 2
        if path == "curve":
            total -= mean * (points[j + 1] - points[j])
        else:
            total += (points[0] - points[-1]) * mean * (shares[j + 1] - shares[j])
    return total


def line_shares(points: list[Tensor], path: str) -> list[float]:
    """Return t_0 .. t_n: the share of arc length (norm), or of the projection on x_n - x_0 (cosine)."""
    if path == "norm":
        lengths = [float(((b - a) ** 2).sum()) ** 0.5 for a, b in pairwise(points)]
        return [sum(lengths[:j]) / sum(lengths) for j in range(len(points))]
    line = points[-1] - points[0]
    return [float(((point - points[0]) * line).sum() / (line**2).sum()) for point in points]
