"""Quantised maps: how far they are off, exact zeros, and how large pages get."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from tests.helpers.comparisons import cell as make_cell
from tests.helpers.comparisons import comparison, noise, row
from xplain.reports.comparison import describe
from xplain.reports.comparison_page import BUDGET, COARSE, FINE, make_page, pack, pack_image, pack_within, quantise

SIDE = 224


def unpack(packed, how, shape):
    """The values, as a browser reads them."""
    plain = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), dtype=np.uint8)
    if packed["delta"]:
        plain = np.cumsum(plain, dtype=np.uint8)
    high, low = (plain[: len(plain) // 2], plain[len(plain) // 2 :]) if how.levels > 127 else (0, plain)
    levels = np.multiply(high, 256, dtype=np.int64) + low - (32768 if how.levels > 127 else 128)
    return (np.sign(levels) * packed["max"] * (np.abs(levels) / how.levels) ** how.power).reshape(shape)


@pytest.mark.parametrize("how", [FINE, *COARSE])
@pytest.mark.parametrize(
    "values", [noise(1)[0], np.zeros((4, 5)), np.eye(6) * -3, np.linspace(-1, 2, 60).reshape(6, 10)]
)
def test_values_come_back_within_half_a_step(how, values):
    packed = pack(values, how)
    found = unpack(packed, how, values.shape)
    assert packed["max"] == np.abs(values).max()
    assert (found[values == 0] == 0).all()
    for value, back in zip(values.ravel(), found.ravel(), strict=True):
        assert abs(value - back) <= how.step(packed["max"], back) * 0.5001


def test_steps_are_the_distances_of_levels():
    assert FINE.step(2.0, 0.3) == pytest.approx(2 / 32767)
    coarse = COARSE[0]
    assert coarse.step(1.0, 1.0) == pytest.approx((128 / 127) ** 2 - 1)
    assert coarse.step(1.0, 0.0) == pytest.approx(1 / 127**2)
    assert quantise(np.array([[1.0, -1.0, 0.25, 0.0]]), coarse)[0].tolist() == [[127, -127, 64, 0]]
    assert (FINE.bits, coarse.bits) == (16, 8)


def test_twenty_images_by_six_methods_stay_under_8_megabytes_even_as_noise():
    rng = np.random.default_rng(0)
    worst = rng.uniform(-1, 1, (SIDE, SIDE))
    photo = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    images = 20 * len(pack_image(photo))
    assert images < 8_000_000 - 120 * len(pack(worst, COARSE[-1])["data"]) - 400_000
    likely = rng.normal(size=(SIDE, SIDE)) ** 3
    assert 120 * len(pack(likely, COARSE[0])["data"]) < BUDGET - 20 * 40_000


def test_levels_are_as_fine_as_the_budget_admits():
    maps = [[noise(1)[0], None], [noise(2)[0], noise(3)[0]]]
    sizes = {
        how: sum(len(pack(each, how)["data"]) for each in row if each is not None)
        for how in (FINE, *COARSE)
        for row in maps[1:]
    }
    for how in (FINE, *COARSE):
        total = sizes[how] + len(pack(maps[0][0], how)["data"])
        chosen, packed = pack_within(maps, total)
        assert chosen == how
        assert [[each is None for each in row] for row in packed] == [[False, True], [False, False]]
    chosen, packed = pack_within(maps, 10)
    assert (chosen, len(packed)) == (COARSE[-1], 2)


def test_names_cannot_leave_their_script_element():
    found = comparison([row([make_cell(noise(1)), None])], failed=["</script><b>"])
    page = make_page(found, describe(found, "", []))
    assert page.count("</script") == 2
    assert page.count("<script") == 2
    assert "alert(1)</" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
