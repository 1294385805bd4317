"""IDGI on a given path, one point at a time."""

from itertools import pairwise

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def idgi(f: Scalar, path: list[Tensor]) -> Tensor:
    """Return Σ_k (f(x_{k+1}) - f(x_k)) g_k² / Σ_j g_kj², with g_k = ∇f(x_k); steps from points without a gradient are skipped."""
    total = torch.zeros_like(path[0])
    for point, following in pairwise(path):
        square = gradient(f, point) ** 2
        if float(square.sum()) > 0:
            total += (f(following) - f(point)).detach() * square / square.sum()
    return total
