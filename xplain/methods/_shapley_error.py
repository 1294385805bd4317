"""Standard errors of Shapley values from a regression over random coalitions."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLES_PER_SEGMENT = 4  # with fewer coalitions, the standard error is unknown


def relative_standard_errors(
    gram: Tensor, members: Tensor, residuals: Tensor, values: Tensor, exists: Tensor
) -> Tensor:
    """Return the standard errors (N,) √(Σ_s SE_s²) / ‖φ‖ of Shapley values φ; infinite with too few coalitions.

    The covariance of φ is A M A: the sandwich estimator for pairs of correlated coalitions, with A = G⁻¹ - G⁻¹ 1 1ᵀ G⁻¹ / (1ᵀ G⁻¹ 1)
    of the regression under Σ φ = const, M = n / (n - K) Σ_p u_p u_pᵀ, u_p = the sum of e_i z_i over the pair p.

    gram: G (N, K, K), regular; the identity for segments that do not exist. members: z_i (N, n, K) bool, of which every two are a pair.
    residuals: e_i (N, n). values: φ (N, K). exists: (N, K) bool. All others are float64.
    """
    samples, counts = members.shape[1], exists.sum(dim=1)
    products = members.double() * residuals[:, :, None]
    if samples % 2:  # the last one has no partner
        products = torch.cat([products, torch.zeros_like(products[:, :1])], dim=1)
    pairs = products.unflatten(1, (-1, 2)).sum(dim=2)
    ones = exists.double()[:, :, None]
    solved = torch.linalg.solve(gram, torch.cat([pairs.mT, ones], dim=2))
    free, unit = solved[:, :, :-1], solved[:, :, -1:]
    influences = free - unit * (ones.mT @ free) / (ones.mT @ unit)  # A u_p
    correction = samples / (samples - counts).clamp(min=1)
    variance = influences.square().sum(dim=(1, 2)) * correction
    errors = torch.where(variance > 0, variance.sqrt() / values.norm(dim=1), 0)
    return torch.where(samples >= SAMPLES_PER_SEGMENT * counts, errors, torch.inf)
