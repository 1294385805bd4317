"""SaCo of one image: the double loop over groups of the paper."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def saco(
    probability: Callable[[Tensor], float], image: Tensor, attribution: Tensor, groups: int = 10, agree: bool = False
) -> float:
    """Return SaCo. probability: of the target, of an image (C, H, W). agree: equal effects count as agreement."""
    salience = attribution.sum(dim=0).flatten().tolist()
    order = sorted(range(len(salience)), key=lambda at: (-salience[at], at))
    edges = [round(k * len(order) / groups) for k in range(groups + 1)]
    original = probability(image)
    means, effects = [], []
    for k in range(groups):
        members = order[edges[k] : edges[k + 1]]
        means.append(sum(salience[at] for at in members) / len(members))
        changed = image.clone()
        for channel in range(len(image)):
            for at in members:
                changed[channel].view(-1)[at] = image[channel].mean()
        effects.append(original - probability(changed))
    total = weight_sum = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            weight = means[i] - means[j]
            weight_sum += weight
            if effects[i] > effects[j] or (agree and effects[i] == effects[j]):
                total += weight
            elif effects[i] < effects[j]:
                total -= weight
    return total / weight_sum
