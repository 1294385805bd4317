"""Attention rollout and attention relevance, written out entry by entry from the papers."""

from __future__ import annotations

import torch
from torch import Tensor

Matrix = list[list[float]]


def product(a: Matrix, b: Matrix) -> Matrix:
    """The matrix product by its definition."""
    n = range(len(a))
    return [[sum(a[i][k] * b[k][j] for k in n) for j in n] for i in n]


def identity(n: int) -> Matrix:
    return [[float(i == j) for j in range(n)] for i in range(n)]


def rollout(weights: list[Tensor]) -> Tensor:
    """Abnar and Zuidema, Section 3: A~(l_i) = A(l_i) A~(l_{i-1}), with A = 0.5 W_att + 0.5 I. weights: (heads, N, N) a layer."""
    n = range(weights[0].shape[-1])
    flow = identity(len(n))
    for layer in weights:
        heads: list[Matrix] = layer.tolist()
        mean = [[sum(head[i][j] for head in heads) / len(heads) for j in n] for i in n]
        flow = product([[0.5 * mean[i][j] + 0.5 * (i == j) for j in n] for i in n], flow)
    return torch.tensor(flow, dtype=weights[0].dtype)


def relevance(weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
    """Chefer, Gur and Wolf, Eq. 3, 5 and 6, of an encoder: R starts as the identity."""
    n = range(weights[0].shape[-1])
    found = identity(len(n))
    for layer, slope in zip(weights, slopes, strict=True):
        pairs = list(zip(layer.tolist(), slope.tolist(), strict=True))
        mean = [[sum(max(a[i][j] * g[i][j], 0.0) for a, g in pairs) / len(pairs) for j in n] for i in n]
        step = product(mean, found)
        found = [[found[i][j] + step[i][j] for j in n] for i in n]
    return torch.tensor(found, dtype=weights[0].dtype)
