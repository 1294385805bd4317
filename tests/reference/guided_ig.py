"""Guided IG, one image and one value at a time, from the description of the authors' program."""

from __future__ import annotations

import math

import numpy as np


def guided_ig(image, baseline, gradient, steps, fraction, max_distance):
    """Return the attributions of an image; image and baseline have the same shape. gradient: function from array to array."""
    x, start = image.ravel().astype(float), baseline.ravel().astype(float)
    count, point = len(x), start.copy()
    total, result = sum(abs(x - start)), np.zeros(len(x))
    if total == 0:
        return result.reshape(image.shape)
    for step in range(steps):
        slope = gradient(point.reshape(image.shape)).ravel()
        alpha = (step + 1) / steps
        lower, upper = max(alpha - max_distance, 0), min(alpha + max_distance, 1)
        x_min, x_max = start + (x - start) * lower, start + (x - start) * upper
        target = total * (1 - alpha)
        while True:
            old = point.copy()
            for j in range(count):
                if x[j] != start[j] and (point[j] - start[j]) / (x[j] - start[j]) < lower:
                    point[j] = x_min[j]
            now = sum(abs(point - x))
            if math.isclose(now, target, rel_tol=1e-9, abs_tol=1e-9):
                result += (point - old) * slope
                break
            ranked = [
                math.inf if math.isclose(point[j], x_max[j], abs_tol=1e-14) else abs(slope[j]) for j in range(count)
            ]
            threshold = sorted(ranked)[math.floor(fraction * (count - 1))]
            chosen = [j for j in range(count) if ranked[j] <= threshold and ranked[j] != math.inf]
            reach = sum(abs(x_max[j] - point[j]) for j in chosen)
            gamma = (now - target) / reach if reach > 0 else math.inf
            for j in chosen:
                point[j] = x_max[j] if gamma > 1 else point[j] + gamma * (x_max[j] - point[j])
            result += (point - old) * slope
            if gamma <= 1:
                break
    return result.reshape(image.shape)
