"""Show images of any number of bands as RGB pictures, and tell how much of an attribution each band has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.reports.render import Pixels, to_pixels

STRETCH = (2, 98)  # percentiles of a band that become black and white in pictures


def shown_bands(channels: int, bands: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the numbers, from 1, of the bands that pictures show: ``bands``, or else the first three, or the first of one or two."""
    if bands:
        return tuple(bands)
    return (1, 2, 3) if channels >= 3 else (1,)


def show_bands(image: Floats, bands: Sequence[int] = ()) -> Pixels:
    """Return the picture (H, W, 3) of an image (C, H, W) in [0, 1]; a single band is shown in gray.

    RGB images are shown as they are. Bands of other images are stretched by the percentiles ``STRETCH`` of their values.
    """
    shown = image[[band - 1 for band in shown_bands(len(image), bands)]]
    if len(image) != 3:
        shown = np.stack([_stretch(band) for band in shown])
    return to_pixels(shown.repeat(3, axis=0) if len(shown) == 1 else shown)


def _stretch(band: Floats) -> Floats:
    low, high = np.percentile(band, STRETCH)
    if low == high:
        return np.clip(band, 0, 1)
    return np.clip((band - low) / (high - low), 0, 1)


def describe_shown_bands(channels: int, bands: Sequence[int]) -> dict[str, Any]:
    """Return the bands that pictures show as the entry ``bands`` of a record; {} for RGB images that are shown as they are."""
    return {"bands": list(shown_bands(channels, bands))} if bands or channels != 3 else {}


def band_shares(attribution: Floats) -> list[float] | None:
    """Return the share of each band of the sum of the magnitudes of an attribution (C, H, W); None if it is zero."""
    sums = np.abs(attribution.astype(np.float64)).sum(axis=(1, 2))
    total = sums.sum()
    return [round(float(share), 6) for share in sums / total] if total > 0 else None
