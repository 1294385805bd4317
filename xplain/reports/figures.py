"""Drawing figures for papers: sizes in inches and points, places from the top left, and bytes that repeat."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xplain.core.errors import UsageError
from xplain.core.files import printable
from xplain.reports.render import Bytes, lenient_letters

FORMATS = ("png", "pdf", "svg")
PAGE, COLUMN = 7.16, 3.5  # inches: the width of a page and of a column in two-column proceedings
LINE, HEAD, SMALL = 0.115, 7.5, 6.5  # inches from line to line; points of headings and captions


def check_formats(given: Sequence[str]) -> None:
    """Raise UsageError for what is no format of figures."""
    for each in given:
        if each not in FORMATS:
            raise UsageError(f"unknown format {each!r}", f"choose from {', '.join(FORMATS)}")


@contextmanager
def paper_style() -> Iterator[None]:
    """matplotlib's settings for figures in papers."""
    import matplotlib

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": SMALL,
        "axes.linewidth": 0.5,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "pdf.fonttype": 42,
        "svg.hashsalt": "xplain",
    }
    with matplotlib.rc_context(settings), lenient_letters():
        yield


def save_figure(figure: Any, form: str) -> bytes:
    """The figure's bytes as png (300 dots an inch), pdf or svg; the same figure gives the same bytes."""
    stream = io.BytesIO()
    metadata = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[form]
    figure.savefig(stream, format=form, dpi=300, metadata=metadata, facecolor="white")
    return stream.getvalue()


@dataclass(frozen=True, eq=False)
class Pen:
    """Draws on a figure at places given in inches from the top left."""

    figure: Any
    width: float
    height: float

    def axis(self, x: float, y: float, width: float, tall: float, inset: tuple[float, float] = (0, 0)) -> Any:
        """Axes in a box; inset: room for tick labels at the left and below."""
        left, below = inset
        box = ((x + left) / self.width, 1 - (y + tall - below) / self.height)
        return self.figure.add_axes((*box, (width - left) / self.width, (tall - below) / self.height))

    def show(self, x: float, y: float, width: float, tall: float, pixels: Bytes, frame: bool = False) -> None:
        """A picture that fills its box."""
        axis = self.axis(x, y, width, tall)
        axis.imshow(pixels, aspect="auto", interpolation="nearest")
        axis.set_xticks(())
        axis.set_yticks(())
        axis.spines[:].set_visible(frame)

    def missing(self, x: float, y: float, width: float, tall: float) -> None:
        """The place of a cell that failed."""
        axis = self.axis(x, y, width, tall)
        axis.set_facecolor("#eeeeee")
        axis.set_xticks(())
        axis.set_yticks(())
        axis.spines[:].set_visible(False)
        axis.text(0.5, 0.5, "failed", ha="center", va="center", size=SMALL, color="#666666")

    def write(
        self, x: float, y: float, lines: Sequence[str], *, size: float, align: str = "center", up: bool = False,
        bold: bool = False, colour: str = "black",
    ) -> None:  # fmt: skip
        """Lines of text below (up: above) a point."""
        y -= LINE * len(lines) if up else 0
        for k, line in enumerate(lines):
            self.figure.text(
                x / self.width, 1 - (y + k * LINE) / self.height, printable(line), size=size, ha=align, va="top",
                weight="bold" if bold else "normal", color=colour, parse_math=False,
            )  # fmt: skip


def wrap(text: str, room: int, most: int) -> list[str]:
    """At most ``most`` lines of about ``room`` letters, broken at any sign of punctuation; the rest is cut off."""
    lines = []
    for part in text.split("\n"):
        loose = part.replace(":", ":\u200b").replace(",", ",\u200b").replace("-", "-\u200b").replace("_", "_\u200b")
        words = [piece for word in loose.split(" ") for piece in (word + " ").split("\u200b")]
        line = ""
        for word in words:
            if line and len(line + word.rstrip()) > room:
                lines.append(line.rstrip())
                line = ""
            line += word
        lines.append(line.rstrip())
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + "…"]
    return [line if len(line) <= room + 1 else line[:room] + "…" for line in lines]
