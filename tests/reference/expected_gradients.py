"""Expected gradients, one draw at a time, for given baselines and positions on the lines."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def expected_gradients(f: Scalar, image: Tensor, baselines: list[Tensor], alphas: list[float]) -> Tensor:
    """Return (1/n) Σ_i (x - x'_i) ⊙ ∇f(x'_i + α_i (x - x'_i))."""
    total = torch.zeros_like(image)
    for baseline, alpha in zip(baselines, alphas, strict=True):
        total += (image - baseline) * gradient(f, baseline + alpha * (image - baseline))
    return total / len(baselines)


def gradient_shap(
    f: Scalar, image: Tensor, baselines: list[Tensor], alphas: list[float], noises: list[Tensor]
) -> Tensor:
    """Return (1/n) Σ_i (x̃_i - r_i) ⊙ ∇f(r_i + α_i (x̃_i - r_i)), x̃_i = x plus a noise."""
    total = torch.zeros_like(image)
    for baseline, alpha, noise in zip(baselines, alphas, noises, strict=True):
        difference = image + noise - baseline
        total += difference * gradient(f, baseline + alpha * difference)
    return total / len(baselines)
