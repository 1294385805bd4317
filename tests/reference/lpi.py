"""LPI, one reference and one node at a time, for given references, weights and positions on the lines."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def lpi(f: Scalar, image: Tensor, references: list[Tensor], weights: list[float], alphas: list[list[float]]) -> Tensor:
    """Return Σ_r ρ_r (x - r) ⊙ (1/k) Σ_j ∇f(r + α_rj (x - r))."""
    total = torch.zeros_like(image)
    for reference, weight, nodes in zip(references, weights, alphas, strict=True):
        for alpha in nodes:
            g = gradient(f, reference + alpha * (image - reference))
            total += weight * (image - reference) * g / len(nodes)
    return total
