"""Fit text into figures: measure its width, cut it, and wrap it at spaces and punctuation."""

from __future__ import annotations

import re
from bisect import bisect_right

from xplain.core.files import printable
from xplain.reports.matplotlib_style import import_matplotlib

FONT = "DejaVu Sans"  # comes with matplotlib, so that figures are the same everywhere
ROUNDING = 1.02  # renderers round the widths of characters to pixels
BREAKS = tuple(
    map(re.compile, (r"(?<=[ :,])(?=[^ ])", r"(?<=[-_.+=/])(?=.)", r"(?<=.)(?=.)"))
)  # places for line breaks, preferred first


def shorten(text: str, length: int) -> str:
    """Return the text cut to ``length`` characters, the last of which is then an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line of text in inches. size: of the font, in points."""
    import_matplotlib()
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    width, _, _ = text_to_path.get_text_width_height_descent(printable(text), font, False)
    return ROUNDING * float(width) / 72


def cut_text(text: str, width: float, size: float, bold: bool = False) -> str:
    """Return the text, or its longest beginning that fits ``width`` inches with an ellipsis."""
    if text_width(text, size, bold) <= width:
        return text
    count = bisect_right(
        range(len(text)), width, key=lambda length: text_width(text[:length].rstrip() + "…", size, bold)
    )
    return text[: max(count - 1, 0)].rstrip() + "…"


def wrap_text(text: str, width: float, size: float, max_lines: int | None = None) -> list[str]:
    """Return lines of at most ``width`` inches, broken at spaces and after ``:`` and ``,``.

    A word that is wider than a line is broken at punctuation, or between characters. An ellipsis ends text that exceeds ``max_lines``.
    """
    lines = [line for part in text.split("\n") for line in _wrap_paragraph(part, width, size)]
    if max_lines is not None and len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], cut_text("".join(lines[max_lines - 1 :]), width, size)]
    return [line.rstrip() for line in lines]


def _wrap_paragraph(text: str, width: float, size: float) -> list[str]:
    """Return the lines of a text without line breaks. The space between two lines is the end of the first."""
    lines = [""]
    for word in BREAKS[0].split(text):
        _append(lines, word, width, size, BREAKS[1:])
    return lines


def _append(lines: list[str], text: str, width: float, size: float, breaks: tuple[re.Pattern[str], ...]) -> None:
    """Append text to the last line if it fits, else to a new line. breaks: where text that is wider than a line is broken."""
    if text_width((lines[-1] + text).rstrip(), size) <= width:
        lines[-1] += text
        return
    if lines[-1]:
        lines.append("")
    if not breaks or text_width(text.rstrip(), size) <= width:
        lines[-1] += text
        return
    for part in breaks[0].split(text):
        _append(lines, part, width, size, breaks[1:])
