"""SAMP, one path and one pixel at a time."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def walk(
    f: Scalar, start: Tensor, end: Tensor, size: int, fragments: int, momentum: float, sign: int
) -> tuple[Tensor, int]:
    """Return the attributions (H, W) of a path and its number of steps. sign: 1 for insertion, -1 for deletion."""
    height, width = start.shape[1:]
    pixels = [(i, j) for i in range(height) for j in range(width)]
    limit = float((end - start).abs().sum()) / fragments
    point, result, steps, g = start.clone(), torch.zeros(height, width, dtype=start.dtype), 0, None
    while True:
        differs = (point != end).any(dim=0).tolist()
        left = [(i, j) for i, j in pixels if differs[i][j]]
        if not left:
            return result, steps
        new = gradient(f, point)
        g = new if g is None else momentum * new + (1 - momentum) * g
        change = end - point
        products, lengths = (g * change).sum(dim=0).tolist(), change.abs().sum(dim=0).tolist()
        gains = {(i, j): sign * products[i][j] for i, j in left}
        last = sorted(gains.values(), reverse=True)[min(size, len(left)) - 1]
        chosen = [pixel for pixel in left if gains[pixel] >= last]
        length = sum(lengths[i][j] for i, j in chosen)
        is_whole = length <= limit * (1 + 1e-9)
        for i, j in chosen:
            move = change[:, i, j] if is_whole else change[:, i, j] * limit / length
            result[i, j] += sign * float((move * g[:, i, j]).sum())
            point[:, i, j] = end[:, i, j] if is_whole else point[:, i, j] + move
        steps += 1
