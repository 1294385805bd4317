"""The performance information curve of one image (Kapishnikov et al. 2019), with barycentric interpolation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image
from scipy.spatial import Delaunay


def measure_size(image: np.ndarray) -> int:
    """Return the size in bytes as lossless WebP."""
    stream = io.BytesIO()
    Image.fromarray(image, "RGB").save(stream, "WEBP", lossless=True, quality=100)
    return len(stream.getvalue())


def interpolate(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the image with each unknown pixel as the barycentric mean of the corners of its triangle."""
    height, width = known.shape
    kept = [
        (i, j)
        for i in range(height)
        for j in range(width)
        if known[i, j] or (i in (0, height - 1) and j in (0, width - 1))
    ]
    triangles = Delaunay(np.array(kept))
    out = image.copy()
    for i in range(height):
        for j in range(width):
            if (i, j) in kept:
                continue
            corners = triangles.simplices[int(triangles.find_simplex(np.array([i, j])))]
            points = np.array([kept[corner] for corner in corners], dtype=float)
            weights = np.linalg.solve(np.vstack([points.T, np.ones(3)]), np.array([i, j, 1.0]))
            for channel in range(3):
                value = sum(w * float(image[kept[corner]][channel]) for w, corner in zip(weights, corners, strict=True))
                out[i, j, channel] = int(np.rint(np.float32(value)))
    return out


def compute_points(
    image: np.ndarray,
    saliency: np.ndarray,
    random: np.ndarray,
    performance: Callable[[np.ndarray], float],
    thresholds: Sequence[float],
) -> tuple[list[float], list[float]]:
    """Return information and best performance so far at each threshold, 0 for the blurred image and 1 for the image."""
    blurred = interpolate(image, random)
    least, most = measure_size(blurred), measure_size(image)
    low, high = performance(blurred), performance(image)
    information, best = [], []
    for threshold in thresholds:
        restored = interpolate(image, random | (saliency >= np.quantile(saliency, 1 - threshold)))
        information.append(min(max((measure_size(restored) - least) / (most - least), 0.0), 1.0))
        reached = min(max((performance(restored) - low) / (high - low), 0.0), 1.0)
        best.append(max([reached, *best]))
    return information, best


def area(information: Sequence[float], performance: Sequence[float]) -> float:
    """Return the area under the polyline through (0, 0), the points from left to right, and (1, 1).

    The points must be distinct and inside (0, 1).
    """
    corners = [(0.0, 0.0), *sorted(zip(information, performance, strict=True)), (1.0, 1.0)]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(corners))
