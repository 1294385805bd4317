"""Metrics of localization as their definitions read: loops over pixels in Python floats.

Each takes the sums over channels ``s`` of one image as rows of numbers, and a mask of the same shape: 1 on the object, 0 outside, None
ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Map = Sequence[Sequence[float]]
Mask = Sequence[Sequence[int | None]]


def list_pixels(s: Map, mask: Mask) -> list[tuple[float, int]]:
    """Return (value, 1 or 0) of the pixels that are not ignored, in raster order."""
    pairs = [
        (value, inside) for row, marks in zip(s, mask, strict=True) for value, inside in zip(row, marks, strict=True)
    ]
    return [(value, inside) for value, inside in pairs if inside is not None]


def rank_order(pixels: Sequence[tuple[float, int]]) -> list[int]:
    """Return the marks from the highest to the lowest value; ties keep raster order."""
    return [inside for _, inside in sorted(pixels, key=lambda pixel: -pixel[0])]


def relevance_mass(s: Map, mask: Mask, *, absolute: bool = False) -> float:
    pixels = list_pixels(s, mask)
    weigh = abs if absolute else lambda value: max(value, 0.0)
    return math.fsum(weigh(value) for value, inside in pixels if inside) / math.fsum(
        weigh(value) for value, _ in pixels
    )


def share(mask: Mask) -> float:
    marks = [inside for row in mask for inside in row if inside is not None]
    return sum(marks) / len(marks)


def relevance_rank(s: Map, mask: Mask) -> float:
    pixels = list_pixels(s, mask)
    size = sum(inside for _, inside in pixels)
    return sum(rank_order(pixels)[:size]) / size


def top_k(s: Map, mask: Mask, fraction: float) -> float:
    pixels = list_pixels(s, mask)
    k = max(1, round(fraction * len(pixels)))
    return sum(rank_order(pixels)[:k]) / k


def auroc(s: Map, mask: Mask) -> float:
    pixels = list_pixels(s, mask)
    inside = [value for value, mark in pixels if mark]
    outside = [value for value, mark in pixels if not mark]
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


def average_precision(s: Map, mask: Mask) -> float:
    pixels = list_pixels(s, mask)
    size = sum(mark for _, mark in pixels)
    total, recall = 0.0, 0.0
    for threshold in sorted({value for value, _ in pixels}, reverse=True):
        above = [mark for value, mark in pixels if value >= threshold]
        new_recall = sum(above) / size
        total += (new_recall - recall) * sum(above) / len(above)
        recall = new_recall
    return total


def effective_heat_ratio(s: Map, mask: Mask) -> float:
    pixels = list_pixels(s, mask)
    low, high = min(value for value, _ in pixels), max(value for value, _ in pixels)
    heat = [((value - low) / (high - low) if high > low else 1.0, mark) for value, mark in pixels]
    kept = sorted(value for value, _ in heat if value >= 0.1)
    ratios = []
    for step in range(11):
        position = step / 10 * (len(kept) - 1)
        lower = min(math.floor(position), len(kept) - 1)
        upper = min(lower + 1, len(kept) - 1)
        threshold = min(kept[lower] + (position - lower) * (kept[upper] - kept[lower]), 0.99)
        reached = [mark for value, mark in heat if value >= threshold]
        ratios.append(sum(reached) / len(reached))
    return sum((a + b) / 2 * 0.1 for a, b in pairwise(ratios))


def is_near(mask: Mask, row: int, column: int, tolerance: float) -> bool:
    """Return whether the center of a pixel is at most ``tolerance`` away from the square of a pixel of the object."""
    return any(
        math.hypot(max(abs(r - row) - 0.5, 0), max(abs(c - column) - 0.5, 0)) <= tolerance
        for r, marks in enumerate(mask)
        for c, mark in enumerate(marks)
        if mark == 1
    )


def pointing_game(s: Map, mask: Mask, tolerance: float) -> int:
    counted = [(r, c) for r, marks in enumerate(mask) for c, mark in enumerate(marks) if mark is not None]
    row, column = max(counted, key=lambda place: s[place[0]][place[1]])  # the first of equal ones
    return int(is_near(mask, row, column, tolerance))


def pointing_chance(mask: Mask, tolerance: float) -> float:
    counted = [(r, c) for r, marks in enumerate(mask) for c, mark in enumerate(marks) if mark is not None]
    return sum(is_near(mask, r, c, tolerance) for r, c in counted) / len(counted)
