"""Spectral IG, one singular component and one interval at a time."""

import numpy as np
import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def path_point(image: np.ndarray, baseline: np.ndarray, alpha: float, overlap: float) -> np.ndarray:
    """Return x(α) = x' + Σ_i m_i(α) s_i u_i v_iᵀ for an image (C, H, W)."""
    point = baseline.copy()
    for channel, difference in enumerate(image - baseline):
        u, s, vt = np.linalg.svd(difference, full_matrices=False)
        for i, value in enumerate(s):
            strength = value / s[0] if s[0] > 0 else 0
            gate = (alpha - (1 - overlap) * (1 - strength)) / overlap
            point[channel] += min(max(gate, 0), 1) * value * np.outer(u[:, i], vt[i])
    return point


def spectral_ig(f: Scalar, image: Tensor, baseline: Tensor, steps: int, overlap: float, rule: str) -> Tensor:
    """Return Σ_k (x_{k+1} - x_k) ⊙ ∇f at the middle (or the left end) of x_k and x_{k+1}."""
    total = torch.zeros_like(image)
    for k in range(steps):
        left, right = (
            torch.from_numpy(path_point(image.numpy(), baseline.numpy(), j / steps, overlap)) for j in (k, k + 1)
        )
        total += (right - left) * gradient(f, left if rule == "left" else (left + right) / 2)
    return total
