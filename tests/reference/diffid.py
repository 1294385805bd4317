"""DiffID of one image, value by value: the loops of the code of LPI and of Spectral IG, with a stable sort."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def order(attribution: Tensor, channels: int, variant: str, descending: bool) -> list[int]:
    """Return the indices of the C·H·W values of an image in the order of removal. attribution: (C or 1, H, W)."""
    magnitudes = attribution.abs()
    if variant == "lpi":
        magnitudes = torch.stack([magnitudes.sum(dim=0)] * channels)
    values = magnitudes.flatten().tolist()
    return sorted(range(len(values)), key=lambda at: (-values[at] if descending else values[at], at))


def changed(normalized: Tensor, removed: list[int]) -> Tensor:
    """Return a normalized image (C, H, W) whose ``removed`` values are the mean of the others."""
    values = normalized.flatten().tolist()
    out = set(removed)
    kept = [value for at, value in enumerate(values) if at not in out]
    mean = sum(kept) / len(kept)
    filled = [mean if at in out else value for at, value in enumerate(values)]
    return torch.tensor(filled, dtype=torch.float64).view(normalized.shape)


def diffid(
    logits: Callable[[Tensor], Tensor],
    normalized: Tensor,
    attribution: Tensor,
    label: int,
    variant: str = "sig",
    readout: str = "accuracy",
    tenths: tuple[int, ...] = tuple(range(1, 10)),
) -> list[float]:
    """Return the nine differences. logits: of a normalized image (C, H, W). label: the class of the data set."""

    def read(image: Tensor) -> float:
        output = logits(image)
        if readout == "accuracy":
            return float(int(output.argmax()) == label)
        if readout == "logit-ratio":
            return float(output[label] / logits(normalized)[label])
        return min(1.0, float(output.softmax(0)[label] / logits(normalized).softmax(0)[label]))

    differences = []
    for tenth in tenths:
        count = math.floor(tenth * normalized.numel() / 10)
        lowest, highest = (
            order(attribution, len(normalized), variant, descending)[:count] for descending in (False, True)
        )
        differences.append(read(changed(normalized, lowest)) - read(changed(normalized, highest)))
    return differences
