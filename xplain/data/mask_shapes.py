"""Turn the shapes of annotation files into pixels: polygons, boxes and run lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.bool_]  # (height, width)

MAX_GROUPS = 13  # of 5 bits in a count of 64 bits


def fill_polygon(points: Sequence[float], height: int, width: int) -> Pixels:
    """Return the pixels whose centers lie inside a polygon by the even-odd rule.

    points: x0, y0, x1, y1, ... in pixels. A center on a left or upper edge is inside, on a right or lower edge outside, so that
    polygons with a common edge do not overlap. Raises ValueError unless there are at least three finite points.
    """
    values = list(points)
    if len(values) < 6 or len(values) % 2:
        raise ValueError("a polygon needs x and y of at least 3 points")
    if not all(map(math.isfinite, values)):
        raise ValueError("a polygon has a coordinate that is not finite")
    x, y = np.array(values, dtype=np.float64).reshape(-1, 2).T
    crossings = np.zeros((height, width + 1), dtype=np.int64)
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        first = int(np.clip(np.ceil(min(y0, y1) - 0.5), 0, height))  # the first row whose center is not above the edge
        last = int(np.clip(np.ceil(max(y0, y1) - 0.5), 0, height))
        rows = np.arange(first, last)
        if not len(rows):
            continue
        at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(np.int64)] += 1
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


def fill_box(left: float, top: float, right: float, bottom: float, height: int, width: int) -> Pixels:
    """Return the pixels whose centers lie inside a box; its left and upper edges belong to it."""
    pixels = np.zeros((height, width), dtype=bool)
    rows = slice(*(int(np.clip(math.ceil(edge - 0.5), 0, height)) for edge in (top, bottom)))
    columns = slice(*(int(np.clip(math.ceil(edge - 0.5), 0, width)) for edge in (left, right)))
    pixels[rows, columns] = True
    return pixels


def decode_run_lengths(counts: Sequence[int], height: int, width: int) -> Pixels:
    """Return the pixels of COCO's run lengths: alternating numbers of zeros and ones, column by column, zeros first.

    Raises ValueError if they do not fill the image exactly.
    """
    if any(count < 0 for count in counts):
        raise ValueError("a run length is negative")
    if sum(counts) != height * width:
        raise ValueError(f"the run lengths sum to {sum(counts)}, not to {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, np.array(counts, dtype=np.int64)).reshape(width, height).T


def parse_run_lengths(text: str) -> list[int]:
    """Return the counts of COCO's compressed run lengths.

    A count is written in groups of 5 bits, the lowest first, each as the character of 48 plus the group, plus 32 if another follows; its
    highest bit is the sign. From the fourth count on, the difference to the count two before is written.
    Raises ValueError if the text is not of this form.
    """
    counts: list[int] = []
    value, groups = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or groups == MAX_GROUPS:
            raise ValueError("the compressed run lengths are damaged")
        value |= (code & 31) << (5 * groups)
        groups += 1
        if code & 32:
            continue
        if code & 16:
            value -= 1 << (5 * groups)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, groups = 0, 0
    if groups:
        raise ValueError("the compressed run lengths end within a number")
    return counts
