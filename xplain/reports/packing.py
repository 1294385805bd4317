"""Maps for a browser: quantised, compressed, as text; and images as JPEG."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xplain.reports.render import Bytes, Floats


@dataclass(frozen=True)
class Quantisation:
    """Levels -levels .. levels; level q stands for sign(q)·max·(|q|/levels)^power, so zero is exactly zero.

    power 2 spends the levels on small values: after clipping, those are what is seen.
    """

    levels: int
    power: int

    @property
    def bits(self) -> int:
        """Bits a value."""
        return (2 * self.levels).bit_length()

    def step(self, largest: float, value: float) -> float:
        """The distance from the level of ``value`` to the next one, in a map whose largest magnitude is ``largest``.

        What was rounded to a level is off by at most half of it.
        """
        q = round(self.levels * (abs(value) / largest) ** (1 / self.power)) if largest else 0
        return float(largest * (((q + 1) / self.levels) ** self.power - (q / self.levels) ** self.power))


FINE = Quantisation(32767, 1)
COARSE = tuple(Quantisation(levels, 2) for levels in (127, 63, 31))


def quantise(saliency: Floats, how: Quantisation) -> tuple[NDArray[np.int16], float]:
    """(H, W) levels, and the largest magnitude."""
    largest = float(np.abs(saliency).max())
    share = (np.abs(saliency) / largest) ** (1 / how.power) if largest else np.zeros_like(saliency)
    return (np.sign(saliency) * (share * how.levels).round()).astype(np.int16), largest


def pack(saliency: Floats, how: Quantisation) -> dict[str, Any]:
    """A map as base64 of deflated bytes: level + 32768 as high bytes then low bytes, or level + 128 where that is enough.

    ``delta``: bytes are differences to the left neighbour (modulo 256), where that is shorter.
    """
    levels, largest = quantise(saliency, how)
    if how.levels > 127:
        shifted = (levels.astype(np.int32) + 32768).ravel()
        plain = np.concatenate([shifted >> 8, shifted & 255]).astype(np.uint8)
    else:
        plain = (levels + 128).astype(np.uint8).ravel()
    delta = np.diff(plain, prepend=np.uint8(0))
    shortest = min(
        ((zlib.compress(data.tobytes(), 9), mark) for data, mark in ((plain, 0), (delta, 1))),
        key=lambda each: len(each[0]),
    )
    return {"max": largest, "delta": shortest[1], "data": base64.b64encode(shortest[0]).decode()}


def pack_within(
    maps: Sequence[Sequence[Floats | None]], budget: int
) -> tuple[Quantisation, list[list[dict[str, Any] | None]]]:
    """Rows of maps in 16 bits where all fit into ``budget`` bytes, else in the most levels that do, or in the fewest there are."""
    for how in (FINE, *COARSE):
        found: list[list[dict[str, Any] | None]] = []
        left = budget
        for row in maps:
            found.append([None if each is None else pack(each, how) for each in row])
            left -= sum(len(each["data"]) for each in found[-1] if each)
            if left < 0 and how != COARSE[-1]:
                break
        else:
            break
    return how, found


def pack_image(image: Bytes) -> str:
    """A data address of the image as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
