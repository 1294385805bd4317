"""Move masks from the pixels of their image to the pixels of the model input, by the area that they cover."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplain.core.array_store import Floats
from xplain.data.image_metadata import turn_array_upright
from xplain.data.mask_shapes import Pixels
from xplain.data.preprocessing import Preprocessing

ROUNDING = 1e-9  # of areas
COVERED = 0.5 - ROUNDING  # a pixel belongs to a mask that covers at least half of it


def turn_mask(pixels: Pixels, size: tuple[int, int], orientation: int) -> Pixels:
    """Return a mask on the upright image.

    size: (height, width) of the upright image. orientation: EXIF orientation of the image file.
    A mask is drawn on the stored pixels and is turned like these, unless only the upright image has its size or its aspect ratio.
    Raises ValueError if neither has its aspect ratio, up to one pixel of the shorter side.
    """
    stored = size if orientation < 5 else (size[1], size[0])
    for fits in (_has_size, _has_aspect_ratio):
        if fits(pixels.shape, stored):
            return turn_array_upright(pixels[None], orientation)[0]
        if fits(pixels.shape, size):
            return pixels
    raise ValueError(
        f"the mask has {pixels.shape[1]} x {pixels.shape[0]} pixels, but the image has {size[1]} x {size[0]}"
    )


def _has_size(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    return shape == size


def _has_aspect_ratio(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return whether the shorter side differs by less than a pixel from the one that the longer side demands."""
    (height, width), (image_height, image_width) = shape, size
    if image_width >= image_height:
        return abs(height - width * image_height / image_width) < 1
    return abs(width - height * image_width / image_height) < 1


def measure_coverage(pixels: Pixels, preprocessing: Preprocessing, size: tuple[int, int]) -> Floats:
    """Return the fraction (H, W) of each pixel of the model input that a mask covers.

    pixels: (h, w) the upright mask, which may be smaller or larger than its image. size: (height, width) of the image.
    """
    geometry = preprocessing.geometry(size[1], size[0])
    height, width = preprocessing.size
    rows = _find_edges(geometry.top, height, pixels.shape[0], geometry.height)
    columns = _find_edges(geometry.left, width, pixels.shape[1], geometry.width)
    sums = _integrate(_integrate(pixels, rows).T, columns).T
    return sums * (geometry.height / pixels.shape[0]) * (geometry.width / pixels.shape[1])


def _find_edges(offset: int, count: int, side: int, resized: int) -> Floats:
    """Return the edges (count + 1,) of the pixels of the model input, in pixels of the mask."""
    return np.clip(np.arange(offset, offset + count + 1) * side / resized, 0, side)


def _integrate(values: NDArray[Any], edges: Floats) -> Floats:
    """Return the integrals (K, n) of piecewise constant values (h, n), booleans or numbers, between consecutive edges (K + 1,)."""
    dtype = np.int32 if values.dtype == bool else np.float64
    cumulative = values.cumsum(axis=0, dtype=dtype)
    cells: NDArray[np.int64] = np.minimum(edges.astype(np.int64), len(values) - 1)
    before = np.where((cells > 0)[:, None], cumulative[cells - 1], 0)
    integrals: Floats = np.diff(before + (edges - cells)[:, None] * values[cells], axis=0)
    return integrals


def place_mask(inside: Pixels, ignored: Pixels, preprocessing: Preprocessing, size: tuple[int, int]) -> Floats:
    """Return a mask (H, W) on the model input: 1 on the object, NaN where the mask says nothing, 0 elsewhere.

    inside, ignored: (h, w) upright. A pixel of the model input has the value that covers at least half of it; the object comes first.
    """
    mask = np.zeros(preprocessing.size)
    if ignored.any():
        mask[measure_coverage(ignored, preprocessing, size) >= COVERED] = np.nan
    if inside.any():
        mask[measure_coverage(inside, preprocessing, size) >= COVERED] = 1
    return mask
