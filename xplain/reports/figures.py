"""matplotlib figures for papers: style, sizes, formats, and a canvas measured in inches from the top left."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from xplain.core.errors import UsageError
from xplain.core.files import printable
from xplain.reports.matplotlib_style import figure_style, import_matplotlib
from xplain.reports.render import Pixels

FORMATS = ("png", "pdf", "svg")
PAGE_WIDTH, COLUMN_WIDTH = 7.16, 3.5  # inches, in two-column proceedings
LINE_HEIGHT = 0.115  # inches
HEADING_SIZE, TEXT_SIZE = 7.5, 6.5  # points


def check_formats(formats: Sequence[str]) -> None:
    """Raise UsageError for a format that figures cannot be saved in."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"unknown figure format {name!r}", f"choose from {', '.join(FORMATS)}")


@contextmanager
def paper_style() -> Iterator[None]:
    """Use matplotlib settings for figures in papers, on top of matplotlib's defaults."""
    settings = {
        "font.family": "DejaVu Sans",
        "font.size": TEXT_SIZE,
        "axes.linewidth": 0.5,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "pdf.fonttype": 42,
        "svg.hashsalt": "xplain",
    }
    with figure_style(settings):
        yield


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Any:
    """Return a matplotlib figure of that size in inches that needs no display."""
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, form: str) -> bytes:
    """Return the figure's bytes as png (300 dpi), pdf or svg. The same figure gives the same bytes."""
    stream = io.BytesIO()
    metadata = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[form]
    figure.savefig(stream, format=form, dpi=300, metadata=metadata, facecolor="white")
    return stream.getvalue()


@dataclass(frozen=True)
class Box:
    """A rectangle in inches from the top left of a figure."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class FigureCanvas:
    """Draws on a matplotlib figure of width by height inches, at positions in inches from the top left."""

    figure: Any
    width: float
    height: float

    def axes(self, box: Box, left: float = 0, below: float = 0) -> Any:
        """Add axes in a box. left, below: space for tick labels inside the box."""
        corner = ((box.x + left) / self.width, 1 - (box.y + box.height - below) / self.height)
        return self.figure.add_axes((*corner, (box.width - left) / self.width, (box.height - below) / self.height))

    def image(self, box: Box, pixels: Pixels, frame: bool = False) -> None:
        """Draw an image that fills its box."""
        axes = self._bare_axes(box, frame)
        axes.imshow(pixels, aspect="auto", interpolation="nearest")

    def placeholder(self, box: Box) -> None:
        """Fill the box of a failed cell with gray and the word "failed"."""
        axes = self._bare_axes(box, frame=False)
        axes.set_facecolor("#eeeeee")
        axes.text(0.5, 0.5, "failed", ha="center", va="center", size=TEXT_SIZE, color="#666666")

    def _bare_axes(self, box: Box, frame: bool) -> Any:
        axes = self.axes(box)
        axes.set_xticks(())
        axes.set_yticks(())
        axes.spines[:].set_visible(frame)
        return axes

    def text(
        self, x: float, y: float, lines: Sequence[str], *, size: float = TEXT_SIZE, align: str = "center",
        above: bool = False, bold: bool = False, color: str = "black",
    ) -> None:  # fmt: skip
        """Write lines of text below the point (x, y), or above it."""
        if above:
            y -= LINE_HEIGHT * len(lines)
        for number, line in enumerate(lines):
            self.figure.text(
                x / self.width, 1 - (y + number * LINE_HEIGHT) / self.height, printable(line), size=size, ha=align,
                va="top", weight="bold" if bold else "normal", color=color, parse_math=False,
            )  # fmt: skip
