"""Regressions of LIME and KernelSHAP, one row at a time, and Shapley values by definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from tests.reference.gradients import Scalar

Game = Callable[[tuple[int, ...]], float]


def show(image: Tensor, fill: Tensor, labels: Tensor, shown: list[bool]) -> Tensor:
    """Return the image with hidden segments replaced by ``fill``."""
    result = image.clone()
    for segment, visible in enumerate(shown):
        if not visible:
            result[:, labels == segment] = fill[:, labels == segment]
    return result


def segment_means(image: Tensor, labels: Tensor) -> Tensor:
    """Return the image with every segment in its mean color."""
    result = image.clone()
    for segment in labels.unique().tolist():
        where = labels == segment
        for channel in range(len(image)):
            result[channel, where] = image[channel, where].mean()
    return result


def spread(values: np.ndarray, labels: Tensor) -> Tensor:
    """Return a map (1, H, W) of each segment's value divided by its number of pixels."""
    result = torch.zeros(1, *labels.shape, dtype=torch.float64)
    for segment, value in enumerate(values):
        result[0, labels == segment] = float(value) / int((labels == segment).sum())
    return result


def lime(
    f: Scalar, image: Tensor, fill: Tensor, labels: Tensor, shown: np.ndarray, width: float, ridge: float
) -> Tensor:
    """Solve the weighted ridge regression as ordinary least squares with K additional rows, one per penalty."""
    count = shown.shape[1]
    rows, values = [], []
    for row in shown:
        cosine = row.sum() / math.sqrt(row.sum() * count) if row.any() else 0.0
        weight = math.sqrt(math.exp(-((1 - cosine) ** 2) / width**2))
        rows.append(math.sqrt(weight) * np.concatenate([[1.0], row]))
        values.append(math.sqrt(weight) * float(f(show(image, fill, labels, row.tolist())).detach()))
    for segment in range(count):
        rows.append(math.sqrt(ridge) * np.eye(count + 1)[segment + 1])
        values.append(0.0)
    fitted = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return spread(fitted[1:], labels)


def kernel_shap(f: Scalar, image: Tensor, fill: Tensor, labels: Tensor, shown: np.ndarray) -> Tensor:
    """Solve least squares under Σ φ = f(x) - f(x') by eliminating the last segment's value."""
    empty, full = float(f(fill).detach()), float(f(image).detach())
    rows = [np.asarray(row[:-1], float) - float(row[-1]) for row in shown]
    values = [
        float(f(show(image, fill, labels, row.tolist())).detach()) - empty - float(row[-1]) * (full - empty)
        for row in shown
    ]
    first = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return spread(np.append(first, full - empty - first.sum()), labels)


def shapley(game: Game, players: int) -> np.ndarray:
    """Return the mean of each player's contributions over all orders."""
    values = np.zeros(players)
    for player in range(players):
        others = [index for index in range(players) if index != player]
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for group in combinations(others, size):
                values[player] += weight * (game((*group, player)) - game(group))
    return values
