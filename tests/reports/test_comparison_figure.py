"""compare.png: what stands where, its size on paper, odd maps and letters without warnings."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.comparisons import HOSTILE, cell, comparison, noise, row
from xplain.core.config import RenderOptions
from xplain.reports.agreement import draw_agreement
from xplain.reports.comparison import describe
from xplain.reports.comparison_figure import Sheet, draw_sheet
from xplain.reports.figures import FORMATS, paper_style, wrap
from xplain.reports.render import colour, heat, masked, overlay, top

PHOTO = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def drawn(found, shows=("overlay",)):
    """The figure's pictures and its texts with their weights."""
    with paper_style():
        figure = Sheet.of(found, shows).draw()
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    return figure, pictures, [(text.get_text(), text.get_weight()) for text in figure.texts]


def test_cells_are_the_pictures_under_one_look():
    look = RenderOptions(clip=(50, 90), opacity=0.5)
    maps = [noise(1), noise(2)]
    found = comparison([row([cell(values) for values in maps], image=PHOTO)], look=look)
    _, pictures, _ = drawn(found, ("overlay", "heatmap", "masked", "top10"))
    image, *cells, _ = pictures
    np.testing.assert_array_equal(image, PHOTO)
    expected = []
    for values in (each.astype(np.float32) for each in maps):
        shown = heat(values, look)
        expected += [overlay(PHOTO, shown, look), colour(shown, look), masked(PHOTO, shown), top(PHOTO, values, look)]
    assert len(cells) == 8
    for one, other in zip(cells, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_scores_and_the_best_are_written():
    rows = [
        row(
            [cell(noise(1), 0.1, 0.3, 2.5), cell(noise(2), 0.7, None, 0.25, ["odd"])], name="dir/cat.png", label="tabby"
        )
    ]
    _, _, texts = drawn(comparison(rows))
    words = [text for text, _ in texts]
    for text in (
        "first",
        "second",
        "cat.png",
        "tabby 0.25",
        "top: class 1 0.50",
        "2.5 s",
        "0.25 s (1)",
        "(1) odd",
        "del undefined",
    ):
        assert text in words
    assert [text for text, weight in texts if weight == "bold"] == ["ins 0.700"]


def test_curves_are_drawn_to_scale():
    figure, _, _ = drawn(comparison([row([cell(noise(1))])], columns=("only",)), ("overlay", "curves"))
    (axis,) = [axis for axis in figure.axes if axis.lines]
    (line,) = axis.lines
    assert line.get_xydata().tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    assert (axis.get_xlim(), axis.get_ylim()) == ((0, 1), (0, 1))


@pytest.mark.parametrize(("count", "inches"), [(2, 3.5), (3, 7.16), (6, 7.16)])
def test_figures_fit_a_column_or_a_page(count, inches):
    found = comparison([row([cell(noise(k)) for k in range(count)])], [f"m{k}" for k in range(count)])
    with Image.open(io.BytesIO(draw_sheet(found, ("overlay",), ("png",))["png"])) as image:
        assert image.width == pytest.approx(inches * 300, abs=2)


@pytest.mark.filterwarnings("error")
def test_odd_maps_and_letters_raise_no_warning():
    spot = np.zeros((1, 24, 32))
    spot[0, 3, 4] = 1
    maps = [np.zeros((1, 24, 32)), -1 - np.abs(noise(1)), spot, None]
    for sign in ("positive", "signed"):
        cells = [None if values is None else cell(values, warnings=["猫 $x"]) for values in maps]
        found = comparison([row(cells)], [HOSTILE, "$b", "c", "d"], RenderOptions(sign=sign))
        assert draw_sheet(found, ("overlay", "masked"), ("png",))["png"][:4] == b"\x89PNG"
    assert draw_agreement(describe(found, "", []), ("png",))["png"][:4] == b"\x89PNG"


def test_the_same_figure_has_the_same_bytes_in_every_format():
    found = comparison([row([cell(noise(1))])], ["only"])
    first, second = (draw_sheet(found, ("curves",), FORMATS) for _ in range(2))
    assert first == second
    assert first["pdf"][:4] == b"%PDF"
    assert b"<svg" in first["svg"]


def test_labels_are_broken_where_they_may_be():
    assert wrap("integrated-gradients:steps=20", 20, 3) == ["integrated-", "gradients:steps=20"]
    assert wrap("tiger cat", 20, 1) == ["tiger cat"]
    assert wrap("a_very_long_name_of_a_file.png", 12, 2) == ["a_very_long_", "name_of_a_…"]
