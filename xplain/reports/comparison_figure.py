"""``compare.png``: images down, methods across, in type that can be read in a paper's column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xplain.core.files import printable
from xplain.reports.comparison import Cell, Comparison, Row
from xplain.reports.figures import COLUMN, HEAD, LINE, PAGE, SMALL, Pen, paper_style, save_figure, wrap
from xplain.reports.render import Bytes, colour, heat, masked, overlay, top

SHOWS = {  # what stands above each kind of picture when the kinds stand side by side
    "overlay": "overlay",
    "heatmap": "heatmap",
    "masked": "heatmap × input",
    "top10": "top 10 %",
    "curves": "curves",
}
GAP = 0.06  # inches between cells
CURVE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
SHORT = {"insertion": "ins", "deletion": "del", "difference": "ins-del"}


def draw_sheet(comparison: Comparison, shows: Sequence[str], forms: Sequence[str]) -> dict[str, bytes]:
    """The figure in each format. One method with several ``shows`` has them across, several methods have them down."""
    with paper_style():
        figure = Sheet.of(comparison, shows).draw()
        return {form: save_figure(figure, form) for form in forms}


@dataclass(frozen=True, eq=False)
class Sheet:
    """Where everything stands, in inches from the top left."""

    comparison: Comparison
    across: Sequence[tuple[int, str]]  # (column, show) of each column of pictures when shows stand across
    down: Sequence[str]
    side: float

    @classmethod
    def of(cls, comparison: Comparison, shows: Sequence[str]) -> Sheet:
        """The layout: as wide as a column for two pictures across, else as a page; wider from eight on."""
        if len(comparison.columns) == 1:
            across, down = [(0, show) for show in shows], [""]
        else:
            across, down = [(k, "") for k in range(len(comparison.columns))], list(shows)
        count = 1 + len(across)
        width = COLUMN if count < 4 else PAGE
        return cls(comparison, across, down, max((width - GAP) / count - GAP, 0.95))

    @property
    def width(self) -> float:
        """Inches."""
        return (1 + len(self.across)) * (self.side + GAP) + GAP

    @property
    def letters(self) -> int:
        """How many letters of a caption fit under a picture."""
        return int(self.side * 72 / (SMALL * 0.57))

    def draw(self) -> Any:
        """The matplotlib figure."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        heads = [wrap(self._head(k, show), int(self.letters * SMALL / HEAD), 3) for k, show in self.across]
        top_of_rows = GAP + LINE * max(map(len, heads)) + GAP
        heights = [self._row_height(row) for row in self.comparison.rows]
        notes = self._notes()
        height = top_of_rows + sum(heights) + 0.42 + (LINE * len(notes) + GAP if notes else 0)
        figure = Figure(figsize=(self.width, height))
        FigureCanvasAgg(figure)
        pen = Pen(figure, self.width, height)
        for k, head in enumerate(heads, 1):
            pen.write(self._left(k) + self.side / 2, top_of_rows - GAP / 2, head, size=HEAD, up=True)
        y = top_of_rows
        for number, (row, tall) in enumerate(zip(self.comparison.rows, heights, strict=True)):
            self._draw_row(pen, row, y, number == 0)
            y += tall
        self._draw_key(pen, y + 0.03)
        pen.write(GAP, y + 0.42, notes, size=SMALL, align="left", colour="#444444")
        return figure

    def _left(self, k: int) -> float:
        return GAP + k * (self.side + GAP)

    def _head(self, column: int, show: str) -> str:
        label = self.comparison.columns[column]
        return f"{label}\n{SHOWS[show]}" if show and len(self.across) > 1 else label

    def _picture_height(self, row: Row) -> float:
        return self.side * row.image.shape[0] / row.image.shape[1]

    def _row_height(self, row: Row) -> float:
        lines = 1 + len(self.comparison.metrics)  # below several pictures; the input's stand beside the second
        lines = max(len(self._input_lines(row)), lines) if len(self.down) == 1 else lines
        return len(self.down) * (self._picture_height(row) + GAP) + lines * LINE + GAP

    def _input_lines(self, row: Row) -> list[str]:
        """File, model where there are several, the class explained and its probability."""
        record, target = row.record, row.record["target"]
        name = str(record["input"]).replace("\\", "/").rsplit("/", 1)[-1]
        lines = [*wrap(name, self.letters, 1)]
        if len(self.comparison.models) > 1:
            lines += wrap(record["model"], self.letters, 3)
        lines += wrap(f"{class_name(target)} {target['probability']:.2f}", self.letters, 2)
        best = record["prediction"][0]
        if best["index"] != target["index"]:
            lines += wrap(f"top: {class_name(best)} {best['probability']:.2f}", self.letters, 2)
        return lines

    def _draw_row(self, pen: Pen, row: Row, y: float, first: bool) -> None:
        tall = self._picture_height(row)
        pen.show(self._left(0), y, self.side, tall, row.image)
        for k, (column, show) in enumerate(self.across, 1):
            cell = row.cells[column]
            for number, kind in enumerate([show] if show else self.down):
                place = (self._left(k), y + number * (tall + GAP), self.side, tall)
                if cell is None:
                    pen.missing(*place)
                elif kind == "curves":
                    self._draw_curves(pen, place, cell, with_key=first and (bool(show) or k == 1))
                else:
                    pen.show(*place, self._picture(kind, row, cell))
        below = y + len(self.down) * (tall + GAP)
        lines = self._input_lines(row)
        pen.write(self._left(0) + self.side / 2, y + tall + GAP, lines, size=SMALL)
        for k, (column, show) in enumerate(self.across, 1):
            if show and k > 1:
                continue
            self._caption(pen, row, column, self._left(k) + self.side / 2, below)

    def _picture(self, kind: str, row: Row, cell: Cell) -> Bytes:
        look = self.comparison.look
        if kind == "top10":
            return top(row.image, cell.values, look)
        shown = heat(cell.values, look)
        if kind == "heatmap":
            return colour(shown, look)
        return masked(row.image, shown) if kind == "masked" else overlay(row.image, shown, look)

    def _caption(self, pen: Pen, row: Row, column: int, x: float, y: float) -> None:
        """Scores, the best of the row bold, and seconds."""
        cell = row.cells[column]
        if cell is None:
            return
        for metric in self.comparison.metrics:
            score = cell.record["scores"][metric]
            bold = score["value"] is not None and score["value"] == self.comparison.best(row, metric)
            value = "undefined" if score["value"] is None else f"{score['value']:.3f}"
            pen.write(x, y, [f"{self._short(metric)} {value}"], size=SMALL, bold=bold)
            y += LINE
        mark = self._mark(cell)
        pen.write(x, y, [f"{cell.record['cost']['seconds']:.2g} s{mark}"], size=SMALL, colour="#444444")

    def _short(self, metric: str) -> str:
        """A metric's name as short as it is still told from the others."""
        name = metric.split(":")[0]
        same = [each for each in self.comparison.metrics if each.split(":")[0] == name]
        text = SHORT.get(name, name) if len(same) == 1 else metric
        room = self.letters - len(" 0.000")
        return text if len(text) <= room else text[: room - 1] + "…"

    def _mark(self, cell: Cell) -> str:
        found = [str(k) for k, text in enumerate(self._remarks(), 1) if text in cell.record["warnings"]]
        return f" ({', '.join(found)})" if found else ""

    def _remarks(self) -> list[str]:
        """All warnings, each once."""
        cells = [cell for row in self.comparison.rows for cell in row.cells if cell is not None]
        return list(dict.fromkeys(text for cell in cells for text in cell.record["warnings"]))

    def _notes(self) -> list[str]:
        room = int((self.width - 2 * GAP) * 72 / (SMALL * 0.55))
        notes = [f"({k}) {text}" for k, text in enumerate(self._remarks(), 1)]
        return [line for note in notes for line in textwrap.wrap(note, room)]

    def _draw_key(self, pen: Pen, y: float) -> None:
        """The colour bar: what its ends stand for, the same for every map."""
        look = self.comparison.look
        low, high = (f"{value:g}" for value in look.clip)
        ramp = np.linspace(-1 if look.sign == "signed" else 0, 1, 256)[None]
        width = min(1.6, self.width * 0.3)
        left = self.width / 2 - width / 2
        pen.show(left, y + 0.04, width, 0.08, colour(ramp, look), frame=True)
        names = (
            (f"-p{high}", f"{look.sign}, 0 in the middle", f"p{high}")
            if look.sign == "signed"
            else (f"≤ p{low}", look.sign, f"≥ p{high}")
        )
        for share, name, align in ((0, names[0], "left"), (0.5, names[1], "center"), (1, names[2], "right")):
            pen.write(left + share * width, y + 0.13, [name], size=SMALL, align=align)
        better = {"higher": "↑", "lower": "↓"}
        metrics = [f"{self._short(m)} {better[each['better']]} = {m}" for m, each in self.comparison.metrics.items()]
        best = ["best in bold"] if metrics and len(self.comparison.columns) > 1 else []
        note = "; ".join(["percentiles p of each map's own values", *metrics, *best])
        room = int(self.width * 72 / (SMALL * 0.55))
        pen.write(self.width / 2, y + 0.25, wrap(note, room, 1), size=SMALL, colour="#444444")

    def _draw_curves(self, pen: Pen, place: tuple[float, float, float, float], cell: Cell, with_key: bool) -> None:
        """Each metric's curve over the share of pixels, the area under it shaded."""
        axis = pen.axis(*place, inset=(0.16, 0.13))
        for (metric, score), tint in zip(cell.record["scores"].items(), CURVE_COLOURS, strict=False):
            if score["curve"]:
                share = np.linspace(0, 1, len(score["curve"]))
                axis.plot(
                    share, score["curve"], color=tint, lw=0.9, label=printable(self._short(metric)), clip_on=False
                )
                axis.fill_between(share, score["curve"], color=tint, alpha=0.15, lw=0)
        axis.set_xlim(0, 1)
        values = [v for score in cell.record["scores"].values() for v in score["curve"] or ()]
        axis.set_ylim(min([0, *values]), max([1, *values]))
        axis.set_xticks((0, 1), ("0", "1"))
        axis.set_yticks((0, 1), ("0", "1"))
        axis.tick_params(labelsize=SMALL - 0.5, length=1.5, pad=1)
        axis.spines[["top", "right"]].set_visible(False)
        if with_key and cell.record["scores"]:
            key = axis.legend(
                loc="best", fontsize=SMALL - 0.5, frameon=False, handlelength=0.8, borderpad=0, labelspacing=0.2
            )
            for text in key.get_texts():
                text.set_parse_math(False)


def class_name(described: dict[str, Any]) -> str:
    """A class by name, or by index where it has none."""
    return str(described["name"] or f"class {described['index']}")
