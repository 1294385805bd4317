"""Quantized maps: rounding errors, exact zeros, and sizes of pages."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from tests.helpers.comparisons import make_cell, make_comparison, make_row, noise
from xplain.reports.comparison import describe_comparison
from xplain.reports.comparison_page import BUDGET, make_comparison_page
from xplain.reports.map_encoding import COARSE, FINE, encode_image, encode_map, encode_maps, quantize

SIDE = 224


def decode_map(encoded, quantization, shape):
    """Return the values as the page's script reads them."""
    plain = np.frombuffer(zlib.decompress(base64.b64decode(encoded["data"])), dtype=np.uint8)
    if encoded["delta"]:
        plain = np.cumsum(plain, dtype=np.uint8)
    high, low = (plain[: len(plain) // 2], plain[len(plain) // 2 :]) if quantization.levels > 127 else (0, plain)
    levels = np.multiply(high, 256, dtype=np.int64) + low - (32768 if quantization.levels > 127 else 128)
    return (np.sign(levels) * encoded["max"] * (np.abs(levels) / quantization.levels) ** quantization.power).reshape(
        shape
    )


@pytest.mark.parametrize("quantization", [FINE, *COARSE])
@pytest.mark.parametrize(
    "values", [noise(1)[0], np.zeros((4, 5)), np.eye(6) * -3, np.linspace(-1, 2, 60).reshape(6, 10)]
)
def test_decoded_values_within_half_step(quantization, values):
    encoded = encode_map(values, quantization)
    decoded = decode_map(encoded, quantization, values.shape)
    assert encoded["max"] == np.abs(values).max()
    assert (decoded[values == 0] == 0).all()
    for value, rounded in zip(values.ravel(), decoded.ravel(), strict=True):
        assert abs(value - rounded) <= quantization.step(encoded["max"], rounded) * 0.5001


def test_quantization_steps_and_bits():
    assert FINE.step(2.0, 0.3) == pytest.approx(2 / 32767)
    coarse = COARSE[0]
    assert coarse.step(1.0, 1.0) == pytest.approx((128 / 127) ** 2 - 1)
    assert coarse.step(1.0, 0.0) == pytest.approx(1 / 127**2)
    assert quantize(np.array([[1.0, -1.0, 0.25, 0.0]]), coarse)[0].tolist() == [[127, -127, 64, 0]]
    assert (FINE.bits, coarse.bits) == (16, 8)


def test_largest_page_under_8_megabytes():
    rng = np.random.default_rng(0)
    worst = rng.uniform(-1, 1, (SIDE, SIDE))
    photo = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    images = 20 * len(encode_image(photo))
    assert images < 8_000_000 - 120 * len(encode_map(worst, COARSE[-1])["data"]) - 400_000
    likely = rng.normal(size=(SIDE, SIDE)) ** 3
    assert 120 * len(encode_map(likely, COARSE[0])["data"]) < BUDGET - 20 * 40_000


def test_encode_maps_fits_budget():
    maps = [[noise(1)[0], None], [noise(2)[0], noise(3)[0]]]
    sizes = {
        quantization: sum(len(encode_map(saliency, quantization)["data"]) for saliency in row if saliency is not None)
        for quantization in (FINE, *COARSE)
        for row in maps[1:]
    }
    for quantization in (FINE, *COARSE):
        total = sizes[quantization] + len(encode_map(maps[0][0], quantization)["data"])
        chosen, rows = encode_maps(maps, total)
        assert chosen == quantization
        assert [[encoded is None for encoded in row] for row in rows] == [[False, True], [False, False]]
    chosen, rows = encode_maps(maps, 10)
    assert (chosen, len(rows)) == (COARSE[-1], 2)


def test_names_stay_in_script_element():
    comparison = make_comparison([make_row([make_cell(noise(1)), None])], failed=["</script><b>"])
    page = make_comparison_page(comparison, describe_comparison(comparison, "", []))
    assert page.count("</script") == 2
    assert page.count("<script") == 2
    assert "alert(1)</" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
