"""Integrated gradients, one node at a time, for every quadrature rule."""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def rule_nodes(rule: str, n: int) -> list[tuple[float, float]]:
    """Return pairs of node and weight on [0, 1]."""
    if rule == "left":
        return [(k / n, 1 / n) for k in range(n)]
    if rule == "right":
        return [(k / n, 1 / n) for k in range(1, n + 1)]
    if rule == "midpoint":
        return [((k + 0.5) / n, 1 / n) for k in range(n)]
    if rule == "trapezoid":
        return [(k / (n - 1), (0.5 if k in (0, n - 1) else 1.0) / (n - 1)) for k in range(n)]
    if rule == "chebyshev":
        angles = [math.pi * k / (n + 1) for k in range(1, n + 1)]
        return [((1 - math.cos(a)) / 2, math.sin(a) / math.fsum(map(math.sin, angles))) for a in angles]
    return gauss_legendre(n)


def gauss_legendre(n: int) -> list[tuple[float, float]]:
    """Return Gauss-Legendre nodes and weights on [0, 1]: eigenvalues of the Jacobi matrix (Golub and Welsch 1969)."""
    k = np.arange(1, n)
    off_diagonal = k / np.sqrt(4 * k**2 - 1.0)
    values, vectors = np.linalg.eigh(np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
    return [(float(v + 1) / 2, float(w) ** 2) for v, w in zip(values, vectors[0], strict=True)]


def integrated_gradients(f: Scalar, image: Tensor, baseline: Tensor, steps: int, rule: str) -> Tensor:
    """Return (x - x') ⊙ Σ_k w_k ∇f(x' + α_k (x - x'))."""
    total = torch.zeros_like(image)
    for alpha, weight in rule_nodes(rule, steps):
        total += weight * gradient(f, baseline + alpha * (image - baseline))
    return (image - baseline) * total


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur each channel by a Gaussian truncated at 4 σ, with mirrored borders."""
    planes = [gaussian_filter(plane.numpy(), sigma, mode="reflect", truncate=4.0) for plane in image]
    return torch.from_numpy(np.stack(planes))
