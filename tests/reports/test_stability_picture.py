"""Pictures of stability: outlines, hatches and captions."""

from __future__ import annotations

import numpy as np
import pytest

from xplain.reports.figures import new_figure
from xplain.reports.stability_picture import ALWAYS, MIN_SIDE, MOSTLY, SOMETIMES, describe_marks, draw_bars, mark_pixels

SIDE = 8
FACTOR = MIN_SIDE // SIDE


def test_outlines_and_hatches():
    """A pixel in all maps has a white rim, one in half a blue one, one in a quarter a hatch; the others keep their colors."""
    shares = np.zeros((SIDE, SIDE))
    shares[1, 1:3] = 1  # two adjacent pixels have one outline
    shares[1, 5], shares[5, 1] = 0.5, 0.25
    overlay = np.full((SIDE, SIDE, 3), 10, dtype=np.uint8)
    picture = mark_pixels(overlay, shares)
    assert picture.shape == (MIN_SIDE, MIN_SIDE, 3)

    def count(row: int, column: int, color: tuple[int, int, int]) -> int:
        part = picture[row * FACTOR : (row + 1) * FACTOR, column * FACTOR : (column + 1) * FACTOR]
        return int((part == color).all(axis=-1).sum())

    assert [count(1, column, ALWAYS) for column in (1, 2)] == [3 * FACTOR - 2] * 2
    assert count(1, 5, MOSTLY) == 4 * FACTOR - 4
    assert count(5, 1, SOMETIMES) == FACTOR**2 // 4
    assert count(3, 3, (10, 10, 10)) == FACTOR**2
    assert (overlay == 10).all()


def test_caption_says_which_maps_are_compared():
    source = {"top10": 0.66}
    entry = {"figure": 0.66, "source": "noise", "draws": None, "rounding": source, "noise": source}
    marks = {"maps": 4, "repeats": {"rounding": 2, "noise": 1}, "core": 0.51, "always": 0.051, "not_always": 0.17}
    assert describe_marks({"stability": entry | {"marks": marks}}) == [
        "stability 0.66 (rounding 0.66, noise 0.66; chance 0.10)",
        "white: in all 4 maps (this one, 2 with other arithmetic, 1 with noise): 5.1% of the image, of 10%",
        "blue: in at least half of them, hatched: in fewer; 17.0% of the image in some only",
    ]
    zero = entry | {"marks": None, "noise": {"undefined": "the map is zero"}, "rounding": None}
    assert describe_marks({"stability": zero}) == ["no marks: the map is zero"]
    assert describe_marks({"stability": zero | {"noise": None}}) == ["no marks: no repeat of the map was measured"]


def test_bars_have_an_axis_from_0_to_1():
    figure = new_figure(9, 1, layout="constrained")
    axes = figure.subplots()
    draw_bars(axes, {"stability": {"draws": {"top10": 1.0}, "rounding": {"top10": 0.25}, "noise": None}})
    figure.canvas.draw()
    assert axes.get_xlim() == (0, 1)
    assert axes.get_xticks().tolist() == [0, 0.1, 0.5, 1]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.1 (chance)", "0.5", "1"]
    (line,) = axes.lines
    assert line.get_xdata() == [0.1, 0.1]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1, 0.25, 0])
    texts = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert list(texts) == ["1.00", "0.25", "not measured"]
    assert max(box.x1 for box in texts.values()) <= axes.bbox.x1
    assert texts["0.25"].x0 > axes.transData.transform((0.25, 0))[0]
