"""Polygons, boxes and run lengths as pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xplain.data.mask_shapes import decode_run_lengths, fill_box, fill_polygon, parse_run_lengths

COORDINATES = st.floats(-3, 15, allow_nan=False, width=32)


def is_inside(x: float, y: float, points: list[tuple[float, float]]) -> bool:
    """Return whether a point is inside by the even-odd rule: it counts the edges at its left."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if min(y0, y1) <= y < max(y0, y1):
            crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return crossings % 2 == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=8))
def test_polygon_holds_centers_inside(points):
    pixels = fill_polygon([value for point in points for value in point], 9, 12)
    expected = [[is_inside(column + 0.5, row + 0.5, points) for column in range(12)] for row in range(9)]
    assert pixels.tolist() == expected


def test_polygons_of_known_area():
    assert fill_polygon([2, 1, 7, 1, 7, 5, 2, 5], 8, 10).sum() == 20
    triangle = fill_polygon([0, 0, 100, 0, 0, 100], 120, 120)
    assert triangle.sum() == 100 * 99 / 2  # a center on the diagonal, a right edge, is outside
    ring = fill_polygon([0, 0, 9, 0, 9, 9, 0, 9, 0, 0, 3, 3, 3, 6, 6, 6, 6, 3, 3, 3], 9, 9)  # a hole by even-odd
    assert ring.sum() == 81 - 9
    assert (fill_polygon([0.5, 0, 4, 0, 4, 9, 0.5, 9], 3, 5) == np.array([True, True, True, True, False])).all()


def test_neighboring_polygons_share_no_pixel():
    left = fill_polygon([0, 0, 5.5, 0, 3.5, 8, 0, 8], 8, 10)
    right = fill_polygon([5.5, 0, 10, 0, 10, 8, 3.5, 8], 8, 10)
    assert (left ^ right).all()


@pytest.mark.parametrize("points", [[], [0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 0, 1, 1, float("nan"), 2]])
def test_damaged_polygons_raise(points):
    with pytest.raises(ValueError, match="a polygon "):
        fill_polygon(points, 4, 4)


def test_box_holds_centers_inside():
    assert fill_box(1, 0, 3, 2, 4, 5).sum() == 4
    assert fill_box(0.5, 0.51, 1.5, 1.5, 4, 5).tolist() == [[False] * 5] * 4  # columns 0, no row
    assert np.argwhere(fill_box(0.5, 0.5, 1.5, 1.5, 4, 5)).tolist() == [[0, 0]]
    assert fill_box(-9, -9, 99, 99, 4, 5).all()


def test_run_lengths_go_down_columns_and_begin_with_zeros():
    pixels = decode_run_lengths([1, 2, 3], 3, 2)
    assert pixels.astype(int).tolist() == [[0, 0], [1, 0], [1, 0]]
    assert decode_run_lengths([0, 6], 3, 2).all()


@pytest.mark.parametrize(
    ("counts", "message"), [([1, 2], "sum to 3, not to 3 x 2"), ([-1, 7], "negative"), ([], "sum to 0")]
)
def test_damaged_run_lengths_raise(counts, message):
    with pytest.raises(ValueError, match=message):
        decode_run_lengths(counts, 3, 2)


def compress(counts: list[int]) -> str:
    """Return COCO's compressed run lengths, as its C library writes them."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            code, value = value & 31, value >> 5
            more = value != -1 if code & 16 else value != 0
            text += chr(48 + (code | 32 if more else code))
    return text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1 << 40), max_size=9))
def test_compressed_run_lengths_round_trip(counts):
    assert parse_run_lengths(compress(counts)) == counts


def test_compressed_run_lengths_equal_pycocotools():
    library = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(3)
    for share in (0.02, 0.5, 0.9):
        pixels = generator.random((37, 53)) < share
        text = library.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
        assert (decode_run_lengths(parse_run_lengths(text), 37, 53) == pixels).all()


def test_polygons_equal_pycocotools_up_to_their_border():
    library = pytest.importorskip("pycocotools.mask")
    points = [10.3, 4.2, 40.8, 9.9, 35.1, 44.5, 20.6, 30.2, 5.2, 38.7]
    theirs = library.decode(library.merge(library.frPyObjects([points], 50, 60))).astype(bool)
    ours = fill_polygon(points, 50, 60)
    padded = np.pad(ours, 1)
    shifted = [padded[1 + dy : 51 + dy, 1 + dx : 61 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert not (theirs & ~np.any(shifted, axis=0)).any()
    assert not (np.all(shifted, axis=0) & ~theirs).any()
    assert (ours != theirs).mean() < 0.03


@pytest.mark.parametrize("text", ["é", "/", "p", "PPPPPPPPPPPPPPPPPP", "QQQ" * 9])
def test_damaged_compressed_run_lengths_raise(text):
    with pytest.raises(ValueError, match=r"the compressed run lengths (are damaged|end within a number)"):
        parse_run_lengths(text)
