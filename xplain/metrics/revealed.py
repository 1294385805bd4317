"""Images of which only some pixels are kept and the rest interpolated, and the information that they hold."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)


def reveal(image: Pixels, known: Mask) -> Pixels:
    """The image with its unknown pixels interpolated linearly over Delaunay triangles of the known ones, in 8 bits.

    The corners always count as known, so that no pixel lies outside the triangles.
    """
    from scipy.interpolate import LinearNDInterpolator  # not while others load: it takes a second

    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    found = image.copy()
    if not known.all():
        plane = LinearNDInterpolator(np.argwhere(known), image[known].astype(np.float64))
        found[~known] = np.round(plane(np.argwhere(~known)).astype(np.float32))  # so that halves are exact
    return found


def information(image: Pixels) -> int:
    """Bytes of the image as lossless WebP, at Pillow's highest effort. Depends on the version of libwebp."""
    content = BytesIO()
    Image.fromarray(image).save(content, format="webp", lossless=True, quality=100)
    return content.tell()


def reveal_all(images: NDArray[np.uint8], known: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(B, K, H, W, 3) the images (B, H, W, 3) under K masks each (B, K, H, W), and (B, K) their information.

    One thread a processor: triangulation and encoder release the interpreter's lock.
    """

    def one(at: tuple[int, ...]) -> tuple[Pixels, int]:
        shown = reveal(images[at[0]], known[at])
        return shown, information(shown)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shown, sizes = zip(*pool.map(one, np.ndindex(known.shape[:2])), strict=True)
    return np.stack(shown).reshape(*known.shape, 3), np.array(sizes).reshape(known.shape[:2])
