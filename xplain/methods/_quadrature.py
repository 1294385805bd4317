"""Quadrature: nodes and weights of path integrals."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xplain.core.errors import UsageError

Rule = Literal["gauss-legendre", "midpoint", "left", "right", "trapezoid", "chebyshev"]


def quadrature(rule: Rule, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights (steps,) on [0, 1] with the dtype and device of ``like``; the weights sum to one.

    left k/n, right (k+1)/n, midpoint (k+1/2)/n for k = 0 .. n-1; trapezoid on n nodes from 0 to 1 inclusive;
    gauss-legendre exact for polynomials up to degree 2n-1; chebyshev (1 - cos θ_k) / 2 with weights ∝ sin θ_k, θ_k = k π / (n + 1) for
    k = 1 .. n, whose nodes contain those of (n - 1) / 2 steps. Raises UsageError if rule is trapezoid and steps is 1.
    """
    k = np.arange(steps)
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        nodes, weights = (nodes + 1) / 2, weights / 2
    elif rule == "trapezoid":
        if steps < 2:
            raise UsageError("rule=trapezoid requires at least two steps, but steps=1", "use steps=2 or more")
        nodes, weights = k / (steps - 1), np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
    elif rule == "chebyshev":
        angles = np.pi * (k + 1) / (steps + 1)
        nodes, weights = (1 - np.cos(angles)) / 2, np.sin(angles) * np.tan(np.pi / (2 * (steps + 1)))
    else:
        nodes = (k + {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]) / steps
        weights = np.full(steps, 1 / steps)
    return torch.tensor(nodes).to(like), torch.tensor(weights).to(like)
