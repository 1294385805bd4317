"""BlurIG by Fourier transforms of the mirrored image, one interval at a time."""

from __future__ import annotations

import numpy as np


def blur(image, sigma):
    """image (C, H, W) under an un-truncated Gaussian, mirrored at the borders."""
    height, width = image.shape[1:]
    mirrored = np.concatenate([image, image[:, ::-1]], axis=1)
    mirrored = np.concatenate([mirrored, mirrored[:, :, ::-1]], axis=2)
    rows = 2 * np.pi * np.fft.fftfreq(2 * height)[:, None]
    columns = 2 * np.pi * np.fft.fftfreq(2 * width)[None, :]
    shrink = np.exp(-(sigma**2) * (rows**2 + columns**2) / 2)
    return np.fft.ifft2(np.fft.fft2(mirrored) * shrink).real[:, :height, :width]


def blur_ig(image, gradient, steps, max_sigma, spacing):
    """image (C, H, W). gradient: array -> array. Returns the attributions."""
    total = np.zeros_like(image)
    for k in range(steps):
        ends = [k / steps, (k + 1) / steps]
        first, last = (_sigma(end, max_sigma, spacing) for end in ends)
        before, after = blur(image, first), blur(image, last)
        total += gradient((before + after) / 2) * (before - after)
    return total


def _sigma(share, max_sigma, spacing):
    """Even, or a hyperbolic sine with max_sigma at share 1."""
    if spacing == "linear":
        return share * max_sigma
    root = max_sigma + np.sqrt(max_sigma**2 + 1)  # e to the arsinh
    return (root**share - root**-share) / 2
