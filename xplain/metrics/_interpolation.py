"""Images of which a few pixels are known: Delaunay interpolation of the others, and the size as lossless WebP."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)


def interpolate_unknown(image: Pixels, known: Mask) -> Pixels:
    """Return the image with its unknown pixels interpolated linearly over Delaunay triangles of the known ones, in 8 bits.

    The corners always count as known, so that no pixel lies outside the triangles.
    """
    from scipy.interpolate import LinearNDInterpolator  # imported here because it takes a second

    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    interpolated = image.copy()
    if not known.all():
        interpolate = LinearNDInterpolator(np.argwhere(known), image[known].astype(np.float64))
        values = interpolate(np.argwhere(~known))
        interpolated[~known] = np.round(values.astype(np.float32))  # float32 makes halves exact before rounding
    return interpolated


def measure_webp_size(image: Pixels) -> int:
    """Return the size of the image in bytes as lossless WebP, at Pillow's highest effort.

    The size depends on the version of libwebp.
    """
    stream = BytesIO()
    Image.fromarray(image).save(stream, format="webp", lossless=True, quality=100)
    return stream.tell()


def interpolate_batch(
    images: NDArray[np.uint8], known: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images under K masks each, and their WebP sizes.

    images: (B, H, W, 3). known: (B, K, H, W).
    Returns the interpolated images (B, K, H, W, 3) and sizes in bytes (B, K).
    Uses one thread per processor, since triangulation and encoder release the interpreter lock.
    """
    masks = known.reshape(-1, *known.shape[2:])
    repeated_images = images.repeat(known.shape[1], axis=0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(_interpolate_and_measure, repeated_images, masks))
    interpolated = np.stack([image for image, _ in results]).reshape(*known.shape, 3)
    sizes = np.array([size for _, size in results]).reshape(known.shape[:2])
    return interpolated, sizes


def _interpolate_and_measure(image: Pixels, known: Mask) -> tuple[Pixels, int]:
    interpolated = interpolate_unknown(image, known)
    return interpolated, measure_webp_size(interpolated)
