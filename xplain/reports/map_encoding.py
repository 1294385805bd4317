"""Quantize and compress maps and images for embedding in ``compare.html``."""

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

from xplain.core.array_store import Floats
from xplain.reports.render import Pixels

EncodedRow = list[dict[str, Any] | None]  # one encoded map per column; None if the cell failed


@dataclass(frozen=True)
class Quantization:
    """Integer levels from -levels to levels; level q encodes sign(q)·max·(|q|/levels)^power, so zero is exact.

    power: 1 spaces the levels evenly; 2 makes them finer near zero, where a clipped map shows differences.
    """

    levels: int
    power: int

    @property
    def bits(self) -> int:
        """Bits per value."""
        return (2 * self.levels).bit_length()

    def step(self, largest: float, value: float) -> float:
        """Return the distance from the level of ``value`` to the next level, in a map whose largest magnitude is ``largest``.

        The rounding error of a value is at most half of it.
        """
        if not largest:
            return 0.0
        level = round(self.levels * (abs(value) / largest) ** (1 / self.power))
        return float(largest * (((level + 1) / self.levels) ** self.power - (level / self.levels) ** self.power))


FINE = Quantization(32767, 1)
COARSE = (Quantization(127, 2), Quantization(63, 2), Quantization(31, 2))


def quantize(saliency: Floats, quantization: Quantization) -> tuple[NDArray[np.int16], float]:
    """Return the levels (H, W) of a map (H, W), and its largest magnitude."""
    largest = float(np.abs(saliency).max())
    if largest == 0:
        return np.zeros(saliency.shape, dtype=np.int16), largest
    share = (np.abs(saliency) / largest) ** (1 / quantization.power)
    return (np.sign(saliency) * (share * quantization.levels).round()).astype(np.int16), largest


def encode_map(saliency: Floats, quantization: Quantization) -> dict[str, Any]:
    """Return a map (H, W) as ``{"max", "delta", "data"}``, where ``data`` is base64 of zlib-compressed bytes.

    The bytes are level + 32768 as all high bytes then all low bytes, or level + 128 if that fits into one byte.
    ``delta`` is 1 if the bytes are differences from the previous byte (modulo 256), which is chosen if it is shorter.
    """
    levels, largest = quantize(saliency, quantization)
    if quantization.levels > 127:
        shifted = (levels.astype(np.int32) + 32768).ravel()
        plain = np.concatenate([shifted >> 8, shifted & 255]).astype(np.uint8)
    else:
        plain = (levels + 128).astype(np.uint8).ravel()
    data, delta = zlib.compress(plain.tobytes(), 9), 0
    differences = zlib.compress(np.diff(plain, prepend=np.uint8(0)).tobytes(), 9)
    if len(differences) < len(data):
        data, delta = differences, 1
    return {"max": largest, "delta": delta, "data": base64.b64encode(data).decode()}


def encode_maps(maps: Sequence[Sequence[Floats | None]], budget: int) -> tuple[Quantization, list[EncodedRow]]:
    """Encode rows of maps with the finest quantization that fits into ``budget`` bytes, or with the coarsest one.

    Returns the quantization and the encoded rows.
    """
    for quantization in (FINE, *COARSE[:-1]):
        rows = _encode_within(maps, quantization, budget)
        if rows is not None:
            return quantization, rows
    coarsest = COARSE[-1]
    return coarsest, [_encode_row(row, coarsest) for row in maps]


def _encode_within(
    maps: Sequence[Sequence[Floats | None]], quantization: Quantization, budget: int
) -> list[EncodedRow] | None:
    """Return the encoded rows, or None as soon as they exceed the budget."""
    rows = []
    for row in maps:
        encoded_row = _encode_row(row, quantization)
        rows.append(encoded_row)
        budget -= sum(len(encoded["data"]) for encoded in encoded_row if encoded)
        if budget < 0:
            return None
    return rows


def _encode_row(row: Sequence[Floats | None], quantization: Quantization) -> EncodedRow:
    return [None if saliency is None else encode_map(saliency, quantization) for saliency in row]


def encode_image(image: Pixels) -> str:
    """Return a data URL of the image (H, W, 3) as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
