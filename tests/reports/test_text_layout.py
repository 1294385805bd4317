"""Text that is measured, cut and wrapped."""

from __future__ import annotations

import pytest

from xplain.reports.text_layout import cut_text, shorten, text_width, wrap_text

SIZE = 7.5
LABEL = "expected-gradients:samples=200,step_size=2 and a cat"


def test_width_grows_with_text_and_size():
    assert text_width("", SIZE) == 0
    assert text_width("WW", SIZE) == pytest.approx(2 * text_width("W", SIZE), rel=0.01)
    assert text_width("W", 2 * SIZE) == pytest.approx(2 * text_width("W", SIZE), rel=0.02)
    assert text_width("W", SIZE, bold=True) > text_width("W", SIZE) > 2 * text_width("i", SIZE)


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (4.0, [LABEL]),
        (1.2, ["expected-gradients:", "samples=200,", "step_size=2 and a cat"]),
        (0.9, ["expected-", "gradients:", "samples=200,", "step_size=2 and", "a cat"]),
    ],
)
def test_lines_break_where_they_can(width, lines):
    assert wrap_text(LABEL, width, SIZE) == lines
    assert max(text_width(line, SIZE) for line in lines) <= width


def test_words_wider_than_a_line_are_broken():
    lines = wrap_text("a " + "W" * 20, 0.5, SIZE)
    assert "".join(lines) == "a" + "W" * 20
    assert all(text_width(line, SIZE) <= 0.5 for line in lines)
    assert wrap_text("abc", 0.001, SIZE) == ["a", "b", "c"]


def test_text_is_cut_where_it_is_full():
    assert wrap_text("tiger cat on a mat", 0.6, SIZE, 2) == ["tiger cat", "on a mat"]
    first, last = wrap_text("tiger cat on a mat of straw", 0.6, SIZE, 2)
    assert (first, last) == ("tiger cat", "on a mat…")
    assert cut_text("tiger cat", 2, SIZE) == "tiger cat"
    assert cut_text("tiger cat", 0.4, SIZE) == "tiger…"
    assert cut_text("tiger cat", 0.01, SIZE) == "…"
    assert wrap_text("a\nb", 1, SIZE) == ["a", "b"]
    assert (shorten("abcdef", 6), shorten("abcdefg", 6)) == ("abcdef", "abcde…")
