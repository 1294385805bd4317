"""Attention rollout and attention relevance, entry by entry as in the papers."""

from __future__ import annotations

import torch
from torch import Tensor

Matrix = list[list[float]]


def multiply(a: Matrix, b: Matrix) -> Matrix:
    """Return the matrix product by its definition."""
    n = range(len(a))
    return [[sum(a[i][k] * b[k][j] for k in n) for j in n] for i in n]


def identity(n: int) -> Matrix:
    return [[float(i == j) for j in range(n)] for i in range(n)]


def rollout(weights: list[Tensor]) -> Tensor:
    """Return the rollout of Abnar and Zuidema, Section 3: A~(l_i) = A(l_i) A~(l_{i-1}), with A = 0.5 W_att + 0.5 I.

    weights: (heads, N, N) per layer.
    """
    n = range(weights[0].shape[-1])
    flow = identity(len(n))
    for layer in weights:
        heads: list[Matrix] = layer.tolist()
        mean = [[sum(head[i][j] for head in heads) / len(heads) for j in n] for i in n]
        with_residual = [[0.5 * mean[i][j] + 0.5 * (i == j) for j in n] for i in n]
        flow = multiply(with_residual, flow)
    return torch.tensor(flow, dtype=weights[0].dtype)


def relevance(weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Return the relevance R of Chefer, Gur and Wolf, Eq. 3, 5 and 6, for an encoder: R starts as the identity."""
    n = range(weights[0].shape[-1])
    total = identity(len(n))
    for layer, gradient in zip(weights, gradients, strict=True):
        heads = list(zip(layer.tolist(), gradient.tolist(), strict=True))
        mean = [[sum(max(a[i][j] * g[i][j], 0.0) for a, g in heads) / len(heads) for j in n] for i in n]
        step = multiply(mean, total)
        total = [[total[i][j] + step[i][j] for j in n] for i in n]
    return torch.tensor(total, dtype=weights[0].dtype)
