"""Noisy linear imputation as one dense linear system for one image (Rong et al. 2022, section 4)."""

import torch
from torch import Tensor

WEIGHTS = {(i, j): 1 / 6 if 0 in (i, j) else 1 / 12 for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)}


def imputed(image: Tensor, missing: Tensor) -> Tensor:
    """(C, H, W) with the missing (H, W) pixels solved for, without noise."""
    height, width = missing.shape
    ranks = [(i, j) for i in range(height) for j in range(width) if missing[i, j]]
    if not ranks:
        return image
    matrix = torch.zeros(len(ranks), len(ranks), dtype=torch.float64)
    right = torch.zeros(len(ranks), len(image), dtype=torch.float64)
    for row, (i, j) in enumerate(ranks):
        for (down, across), weight in WEIGHTS.items():
            near = (i + down, j + across)
            if not (0 <= near[0] < height and 0 <= near[1] < width):
                continue
            matrix[row, row] += weight
            if near in ranks:
                matrix[row, ranks.index(near)] -= weight
            else:
                right[row] += weight * image[:, near[0], near[1]]
    found = image.clone()
    for (i, j), value in zip(ranks, torch.linalg.solve(matrix, right), strict=True):
        found[:, i, j] = value
    return found


def removed(saliency: Tensor, count: int, lowest: bool) -> Tensor:
    """(H, W) the ``count`` pixels that a map ranks first, the earlier of equal ones."""
    flat = saliency.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda at: (flat[at] if lowest else -flat[at], at))
    gone = torch.zeros(len(flat), dtype=torch.bool)
    gone[order[:count]] = True
    return gone.reshape(saliency.shape)
