"""LeGrad and Grad-ECLIP, entry by entry."""

from __future__ import annotations

import torch
from torch import Tensor


def positive_key_means(gradients: Tensor) -> Tensor:
    """Return E_k, the mean over heads and queries of max(gradient, 0), for gradients (heads, queries, keys) of one block."""
    heads, queries, keys = gradients.shape
    entries = gradients.tolist()
    totals = [sum(max(entries[h][q][k], 0.0) for h in range(heads) for q in range(queries)) for k in range(keys)]
    return torch.tensor(totals, dtype=gradients.dtype) / (heads * queries)


def legrad(gradients: list[Tensor]) -> Tensor:
    """Return the mean over the blocks of E^l. gradients: (heads, queries, keys) per block."""
    maps = [positive_key_means(gradient) for gradient in gradients]
    return sum(maps[1:], maps[0]) / len(maps)


def grad_eclip(
    gradient: Tensor,
    values: Tensor,
    query: Tensor | None = None,
    keys: Tensor | None = None,
    patches: slice = slice(None),
) -> Tensor:
    """Return max(λ_k Σ_d w_d v_kd, 0) for each token k; query and keys are those after the projection, None for λ = 1.

    gradient: (D,). values: (N, D). query: (K,). keys: (N, K). patches: the tokens that λ is scaled over.
    """
    products = [sum(w * v for w, v in zip(gradient.tolist(), row, strict=True)) for row in values.tolist()]
    shares = [1.0] * len(products)
    if query is not None and keys is not None:
        cosines = [float(query @ key / (query.norm() * key.norm())) for key in keys]
        low, high = min(cosines[patches]), max(cosines[patches])
        shares = [(cosine - low) / (high - low) for cosine in cosines]
    return torch.tensor([max(a * b, 0.0) for a, b in zip(shares, products, strict=True)], dtype=gradient.dtype)
