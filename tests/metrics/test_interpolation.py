"""Interpolation of partly known images against reference code, and the size as WebP."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.photographs import PHOTOGRAPHS
from tests.reference import information_curves as reference
from xplain.metrics._interpolation import interpolate_unknown, measure_webp_size


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6])
def test_interpolate_unknown_is_barycentric(share):
    known = np.random.default_rng(1).random((24, 32)) < share
    interpolated = interpolate_unknown(PHOTOGRAPHS[0], known)
    assert interpolated.dtype == np.uint8
    assert (interpolated == reference.interpolate(PHOTOGRAPHS[0], known)).all()


def test_interpolate_unknown_keeps_known_pixels():
    rows, columns = np.indices((24, 32))
    ramp = np.stack([3 * rows + 2 * columns, 5 * columns, 200 - 4 * rows], axis=2).astype(np.uint8)
    known = np.zeros((24, 32), dtype=bool)
    assert (interpolate_unknown(ramp, known) == ramp).all()  # by the corners alone
    known[5:9, 3:20] = True
    for picture in PHOTOGRAPHS:
        assert (interpolate_unknown(picture, known)[known] == picture[known]).all()
        assert (interpolate_unknown(picture, np.ones_like(known)) == picture).all()


def test_measure_webp_size_is_lossless():
    flat = np.full((24, 32, 3), 7, dtype=np.uint8)
    for picture in (*PHOTOGRAPHS, flat):
        assert measure_webp_size(picture) == reference.measure_size(picture)
    assert measure_webp_size(flat) < 100 < 1000 < measure_webp_size(PHOTOGRAPHS[0])
