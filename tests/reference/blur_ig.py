"""BlurIG by Fourier transforms of the mirrored image, one interval at a time."""

from __future__ import annotations

import numpy as np


def blur(image, sigma):
    """Blur an image (C, H, W) by a Gaussian that is not truncated, mirrored at the borders."""
    height, width = image.shape[1:]
    mirrored = np.concatenate([image, image[:, ::-1]], axis=1)
    mirrored = np.concatenate([mirrored, mirrored[:, :, ::-1]], axis=2)
    rows = 2 * np.pi * np.fft.fftfreq(2 * height)[:, None]
    columns = 2 * np.pi * np.fft.fftfreq(2 * width)[None, :]
    attenuation = np.exp(-(sigma**2) * (rows**2 + columns**2) / 2)
    return np.fft.ifft2(np.fft.fft2(mirrored) * attenuation).real[:, :height, :width]


def blur_ig(image, gradient, steps, max_sigma, spacing):
    """Return the attributions of an image (C, H, W). gradient: function of an array that returns an array."""
    total = np.zeros_like(image)
    for k in range(steps):
        before = blur(image, _sigma(k / steps, max_sigma, spacing))
        after = blur(image, _sigma((k + 1) / steps, max_sigma, spacing))
        total += gradient((before + after) / 2) * (before - after)
    return total


def _sigma(share, max_sigma, spacing):
    """Return the sigma at a share of the path: linear, or a hyperbolic sine with max_sigma at share 1."""
    if spacing == "linear":
        return share * max_sigma
    root = max_sigma + np.sqrt(max_sigma**2 + 1)  # e to the arsinh
    return (root**share - root**-share) / 2
