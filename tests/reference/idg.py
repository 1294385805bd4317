"""IDG, one node at a time."""

from itertools import pairwise

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def allocate(changes: list[float], nodes: int) -> list[int]:
    """Divide the nodes among intervals in proportion to |change|, by largest remainders."""
    sizes = [abs(change) for change in changes]
    if sum(sizes) == 0:
        sizes = [1.0] * len(sizes)
    quotas = [nodes * size / sum(sizes) for size in sizes]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: nodes - sum(counts)]:
        counts[i] += 1
    return counts


def idg(f: Scalar, image: Tensor, baseline: Tensor, counts: list[int]) -> Tensor:
    """Return (x - x') ⊙ Σ_k w_k g_k ⟨g_k, x - x'⟩ for the numbers of nodes in equal intervals."""
    difference, total = image - baseline, torch.zeros_like(image)
    for i, count in enumerate(counts):
        for j in range(count):
            alpha = (i + (j + 0.5) / count) / len(counts)
            g = gradient(f, baseline + alpha * difference)
            total += g * (g * difference).sum() / (len(counts) * count)
    return difference * total


def changes_on_line(f: Scalar, image: Tensor, baseline: Tensor, intervals: int) -> list[float]:
    """Return the changes of the score over equal intervals of the line from the baseline to the image."""
    scores = [f(baseline + i / intervals * (image - baseline)).item() for i in range(intervals + 1)]
    return [after - before for before, after in pairwise(scores)]
