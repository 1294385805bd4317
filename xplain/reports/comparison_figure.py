"""``compare.png``: a figure with a row per image and a column per method, readable at the column width of a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xplain.core.files import printable
from xplain.reports.class_texts import class_name, format_certainty
from xplain.reports.comparison import Cell, Comparison, Row
from xplain.reports.figures import (
    COLUMN_WIDTH,
    HEADING_SIZE,
    LINE_HEIGHT,
    PAGE_WIDTH,
    TEXT_SIZE,
    Box,
    FigureCanvas,
    new_figure,
    paper_style,
    save_figure,
)
from xplain.reports.render import Pixels, apply_colormap, keep_top_pixels, mask, normalize, overlay
from xplain.reports.stability_summary import describe_figure
from xplain.reports.tables import with_arrow
from xplain.reports.text_layout import cut_text, text_width, wrap_text

PICTURE_TITLES = {  # of each kind of picture that --show accepts, in figures with several kinds
    "overlay": "overlay",
    "heatmap": "heatmap",
    "masked": "heatmap × input",
    "top10": "top 10%",
    "curves": "curves",
}
GAP = 0.06  # inches between cells
KEY_HEIGHT = 0.42  # inches of the color bar, its labels and one line of the legend
HEADING_LINES = 6  # of the label of a method, at most
GRAY = "#444444"
CURVE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
SHORT_NAMES = {"insertion": "ins", "deletion": "del", "difference": "ins-del"}


def draw_comparison(comparison: Comparison, pictures: Sequence[str], formats: Sequence[str]) -> dict[str, bytes]:
    """Return the figure by format.

    pictures: keys of PICTURE_TITLES. With one method they are columns; with several methods they are stacked in each cell.
    """
    with paper_style():
        figure = ComparisonFigure.of(comparison, pictures).draw()
        return {form: save_figure(figure, form) for form in formats}


@dataclass(frozen=True, eq=False)
class ComparisonFigure:
    """The layout of the figure, in inches.

    across: for each column of pictures, the index of its method, and its kind of picture if kinds are columns, else "".
    stacked: the kinds of pictures in each cell if methods are columns, else [""].
    side: width of a picture.
    """

    comparison: Comparison
    across: Sequence[tuple[int, str]]
    stacked: Sequence[str]
    side: float

    @classmethod
    def of(cls, comparison: Comparison, pictures: Sequence[str]) -> ComparisonFigure:
        """Fit up to three columns into a paper's column and up to seven into a page; more make the figure wider."""
        if len(comparison.columns) == 1:
            across, stacked = [(0, kind) for kind in pictures], [""]
        else:
            across, stacked = [(index, "") for index in range(len(comparison.columns))], list(pictures)
        count = 1 + len(across)
        width = COLUMN_WIDTH if count < 4 else PAGE_WIDTH
        return cls(comparison, across, stacked, max((width - GAP) / count - GAP, 0.95))

    @property
    def width(self) -> float:
        """Width of the figure."""
        return (1 + len(self.across)) * (self.side + GAP) + GAP

    def _wrap(self, text: str, max_lines: int) -> list[str]:
        """Return lines of TEXT_SIZE that fit below a picture."""
        return wrap_text(text, self.side, TEXT_SIZE, max_lines)

    def draw(self) -> Any:
        """Return the matplotlib figure."""
        rows = self.comparison.rows
        headings = self._headings()
        top = GAP + LINE_HEIGHT * max(map(len, headings)) + GAP
        heights = [self._row_height(row) for row in rows]
        footnotes = self._footnotes()
        legend = self._legend_lines()
        key_height = KEY_HEIGHT + LINE_HEIGHT * (len(legend) - 1)
        height = top + sum(heights) + key_height
        if footnotes:
            height += LINE_HEIGHT * len(footnotes) + GAP
        canvas = FigureCanvas(new_figure(self.width, height), self.width, height)
        for number, heading in enumerate(headings, 1):
            canvas.text(self._center(number), top - GAP / 2, heading, size=HEADING_SIZE, above=True)
        y = top
        for index, row in enumerate(rows):
            self._draw_row(canvas, row, y, with_legend=index == 0)
            y += heights[index]
        self._draw_color_key(canvas, y + 0.03)
        canvas.text(self.width / 2, y + 0.28, legend, color=GRAY)
        canvas.text(GAP, y + key_height, footnotes, align="left", color=GRAY)
        return canvas.figure

    def _left(self, number: int) -> float:
        """Return the left edge of a column of pictures; column 0 holds the images."""
        return GAP + number * (self.side + GAP)

    def _center(self, number: int) -> float:
        return self._left(number) + self.side / 2

    def _headings(self) -> list[list[str]]:
        """Return the heading of each column, as lines."""
        headings = []
        for column, kind in self.across:
            lines = wrap_text(self.comparison.columns[column], self.side, HEADING_SIZE, HEADING_LINES)
            if kind and len(self.across) > 1:
                lines.append(PICTURE_TITLES[kind])
            headings.append(lines)
        return headings

    def _picture_height(self, row: Row) -> float:
        return self.side * row.image.shape[0] / row.image.shape[1]

    def _row_height(self, row: Row) -> float:
        lines = 1 + len(self.comparison.metrics) + any(cell and "stability" in cell.record for cell in row.cells)
        if len(self.stacked) == 1:  # else the text about the image is beside the second picture
            lines = max(len(self._image_lines(row)), lines)
        return len(self.stacked) * (self._picture_height(row) + GAP) + lines * LINE_HEIGHT + GAP

    def _image_lines(self, row: Row) -> list[str]:
        """Return the text under an image: file, model if there are several, and the explained class with its probability or value."""
        record, target = row.record, row.record["target"]
        name = str(record["input"]).replace("\\", "/").rsplit("/", 1)[-1]
        lines = self._wrap(name, 1)
        if len(self.comparison.models) > 1:
            lines += self._wrap(record["model"], 3)
        lines += self._class_lines(class_name(target), format_certainty(target))
        best = record["prediction"][0]
        if best["index"] != target["index"]:
            lines += self._class_lines(f"predicted: {class_name(best)}", format_certainty(best))
        return lines

    def _class_lines(self, name: str, certainty: str) -> list[str]:
        """Return the name of a class and its probability or value: in one line if both fit, else below each other."""
        line = f"{name} {certainty}"
        if text_width(line, TEXT_SIZE) <= self.side:
            return [line]
        return [*self._wrap(name, 2), certainty]

    def _draw_row(self, canvas: FigureCanvas, row: Row, y: float, with_legend: bool) -> None:
        """Draw an image, its cells and their captions."""
        height = self._picture_height(row)
        canvas.image(Box(self._left(0), y, self.side, height), row.image)
        for number, (column, kind) in enumerate(self.across, 1):
            for index, picture in enumerate([kind] if kind else self.stacked):
                box = Box(self._left(number), y + index * (height + GAP), self.side, height)
                is_first_curve = with_legend and (bool(kind) or number == 1)
                self._draw_picture(canvas, box, picture, row, row.cells[column], is_first_curve)
        canvas.text(self._center(0), y + height + GAP, self._image_lines(row))
        for number, (column, kind) in enumerate(self.across, 1):
            if not kind or number == 1:
                self._write_caption(canvas, row, column, self._center(number), y + len(self.stacked) * (height + GAP))

    def _draw_picture(
        self, canvas: FigureCanvas, box: Box, kind: str, row: Row, cell: Cell | None, with_legend: bool
    ) -> None:
        if cell is None:
            canvas.placeholder(box)
        elif kind == "curves":
            self._draw_curves(canvas, box, cell, with_legend)
        else:
            canvas.image(box, self._render_map(kind, row, cell))

    def _render_map(self, kind: str, row: Row, cell: Cell) -> Pixels:
        options = self.comparison.options
        if kind == "top10":
            return keep_top_pixels(row.image, cell.values, options)
        heatmap = normalize(cell.values, options)
        if kind == "heatmap":
            return apply_colormap(heatmap, options)
        if kind == "masked":
            return mask(row.image, heatmap)
        return overlay(row.image, heatmap, options)

    def _write_caption(self, canvas: FigureCanvas, row: Row, column: int, x: float, y: float) -> None:
        """Write the scores, with the best of the row in bold, the stability and the seconds."""
        cell = row.cells[column]
        if cell is None:
            return
        for metric in self.comparison.metrics:
            value = cell.record["scores"][metric]["value"]
            is_best = value is not None and value == self.comparison.best_score(row, metric)
            text = "undefined" if value is None else f"{value:.3f}"
            canvas.text(x, y, [f"{self._short_name(metric)} {text}"], bold=is_best)
            y += LINE_HEIGHT
        if "stability" in cell.record:
            canvas.text(x, y, [cut_text(describe_figure(cell.record), self.side, TEXT_SIZE)])
            y += LINE_HEIGHT
        canvas.text(x, y, [f"{cell.record['cost']['seconds']:.2g} s{self._footnote_mark(cell)}"], color=GRAY)

    def _short_name(self, metric: str) -> str:
        """Return the short name of a metric, or its full label if the name is ambiguous."""
        name = metric.split(":")[0]
        same_name = [label for label in self.comparison.metrics if label.split(":")[0] == name]
        text = SHORT_NAMES.get(name, name) if len(same_name) == 1 else metric
        return cut_text(text, self.side - text_width(" 0.000", TEXT_SIZE, bold=True), TEXT_SIZE, bold=True)

    def _warnings(self) -> list[str]:
        """Return the distinct warnings of all cells."""
        cells = [cell for row in self.comparison.rows for cell in row.cells if cell is not None]
        return list(dict.fromkeys(text for cell in cells for text in cell.record["warnings"]))

    def _footnote_mark(self, cell: Cell) -> str:
        numbers = [str(number) for number, text in enumerate(self._warnings(), 1) if text in cell.record["warnings"]]
        return f" ({', '.join(numbers)})" if numbers else ""

    def _footnotes(self) -> list[str]:
        """Return the numbered warnings as lines of the figure's width."""
        lines = []
        for number, text in enumerate(self._warnings(), 1):
            lines += wrap_text(f"({number}) {text}", self.width - 2 * GAP, TEXT_SIZE)
        return lines

    def _draw_color_key(self, canvas: FigureCanvas, y: float) -> None:
        """Draw the shared color bar and its labels."""
        options = self.comparison.options
        is_signed = options.sign == "signed"
        width = min(1.6, self.width * 0.4)
        left = self.width / 2 - width / 2
        colors = apply_colormap(np.linspace(-1 if is_signed else 0, 1, 256)[None], options)
        canvas.image(Box(left, y + 0.04, width, 0.08), colors, frame=True)
        low, high = options.clip
        names = [f"≤ p{low:g}", options.sign, f"≥ p{high:g}"]
        if is_signed:
            names = [f"-p{high:g}", "0 (signed)", f"p{high:g}"]
        for share, name, align in zip((0, 0.5, 1), names, ("left", "center", "right"), strict=True):
            canvas.text(left + share * width, y + 0.13, [name], align=align)

    def _legend_lines(self) -> list[str]:
        """Return the legend of the color bar and the metric names, as lines of the figure's width that break between its parts."""
        metrics = self.comparison.metrics
        parts = ["pN: N-th percentile of the values of each map"]
        parts += [f"{with_arrow(self._short_name(label), metrics[label])} = {label}" for label in metrics]
        if metrics and len(self.comparison.columns) > 1:
            parts.append("best in bold")
        if any(cell and "stability" in cell.record for row in self.comparison.rows for cell in row.cells):
            parts.append(
                "stability: share of the highest tenth of a map that stays, lowest of the measured sources (0.1 by chance)"
            )
        width = self.width - 2 * GAP
        lines: list[str] = []
        for part in parts:
            if lines and text_width(f"{lines[-1]}; {part}", TEXT_SIZE) <= width:
                lines[-1] += f"; {part}"
            else:
                lines += wrap_text(part, width, TEXT_SIZE, 3)
        return lines

    def _draw_curves(self, canvas: FigureCanvas, box: Box, cell: Cell, with_legend: bool) -> None:
        """Draw each metric's curve over the share of pixels, with the area below it shaded."""
        scores = cell.record["scores"]
        axes = canvas.axes(box, left=0.16, below=0.13)
        for (metric, score), color in zip(scores.items(), CURVE_COLORS, strict=False):
            if score["curve"]:
                share = np.linspace(0, 1, len(score["curve"]))
                label = printable(self._short_name(metric))
                axes.plot(share, score["curve"], color=color, lw=0.9, label=label, clip_on=False)
                axes.fill_between(share, score["curve"], color=color, alpha=0.15, lw=0)
        values = [value for score in scores.values() for value in score["curve"] or ()]
        axes.set_xlim(0, 1)
        axes.set_ylim(min([0, *values]), max([1, *values]))
        axes.set_xticks((0, 1), ("0", "1"))
        axes.set_yticks((0, 1), ("0", "1"))
        axes.tick_params(labelsize=TEXT_SIZE - 0.5, length=1.5, pad=1)
        axes.spines[["top", "right"]].set_visible(False)
        if with_legend and scores:
            _draw_legend(axes)


def _draw_legend(axes: Any) -> None:
    legend = axes.legend(
        loc="best", fontsize=TEXT_SIZE - 0.5, frameon=False, handlelength=0.8, borderpad=0, labelspacing=0.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
