"""K-means clusters without random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 100
TOLERANCE = 1e-4  # relative difference of equal distances, such as those of two points from their mean


def cluster(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the centers (k, d) of clusters of points (N, d), k = min(count, number of different points), and the cluster (N,) of each.

    The first center is the point closest to the mean, and each of the others the point farthest from the centers before it; of points
    at equal distances, the first is taken. Then the means and the nearest points are updated in turn (Lloyd's algorithm), at most 100
    times. A cluster without points keeps its center.
    """
    centers = _choose_centers(points, count)
    labels = torch.cdist(points, centers).argmin(dim=1)
    for _ in range(ITERATIONS):
        members = torch.nn.functional.one_hot(labels, len(centers)).to(points)
        sizes = members.sum(dim=0)[:, None]
        centers = torch.where(sizes > 0, members.T @ points / sizes.clamp(min=1), centers)
        new = torch.cdist(points, centers).argmin(dim=1)
        if torch.equal(new, labels):
            break
        labels = new
    return centers, labels


def _choose_centers(points: Tensor, count: int) -> Tensor:
    """Return the initial centers (k, d)."""
    chosen = [int(find_closest((points - points.mean(dim=0)).norm(dim=1)))]
    while len(chosen) < count:
        distance = torch.cdist(points, points[chosen]).amin(dim=1)
        if not bool(distance.max() > 0):
            break
        chosen.append(int(_find_first(distance >= distance.max() * (1 - TOLERANCE))))
    return points[chosen]


def find_closest(distances: Tensor) -> Tensor:
    """Return the index (...) of the smallest of ``distances`` (..., N), the first of those that are equal within ``TOLERANCE``."""
    return _find_first(distances <= distances.amin(dim=-1, keepdim=True) * (1 + TOLERANCE))


def _find_first(mask: Tensor) -> Tensor:
    """Return the index (...) of the first true entry of a mask (..., N)."""
    positions = torch.arange(mask.shape[-1], device=mask.device)
    return torch.where(mask, positions, mask.shape[-1]).amin(dim=-1)
