"""RIS and ROS of one image, from its draws, value by value."""

from __future__ import annotations

import math

from torch import Tensor


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def quotients(change: list[float], original: list[float]) -> list[float]:
    return [a / (b if b != 0 else 1e-6) for a, b in zip(change, original, strict=True)]


def ratio(
    images: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor], of: str, scale: str
) -> float:
    """Return the relative change of the map by that of the image or the logits, each (original, of the draw)."""
    image, attribution, outputs = (
        (original.flatten().tolist(), (changed - original).flatten().tolist())
        for original, changed in (images, maps, logits)
    )
    if scale == "norm":
        by = image if of == "input" else outputs
        return (norm(attribution[1]) / norm(attribution[0])) / (norm(by[1]) / norm(by[0]))
    by_change = norm(quotients(image[1], image[0])) if of == "input" else norm(outputs[1])
    return norm(quotients(attribution[1], attribution[0])) / max(by_change, 1e-6)
