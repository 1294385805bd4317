"""The report of compared runs: a Markdown table, a page, and a figure of mean differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xplain.core.files import printable
from xplain.reports.figures import (
    HEADING_SIZE,
    LINE_HEIGHT,
    PAGE_WIDTH,
    TEXT_SIZE,
    new_figure,
    paper_style,
    save_figure,
)
from xplain.reports.tables import format_interval, format_number, markdown_table, with_arrow
from xplain.reports.templates import data_url, render_page
from xplain.reports.text_layout import text_width, wrap_text

Row = Mapping[str, Any]  # one pair by one metric, as ``compare_runs`` describes it
COLUMNS = (
    "metric",
    "first",
    "second",
    "difference",
    "95% CI",
    "win rate",
    "p-value",
    "p-value (Holm)",
    "n",
    "undefined",
)
BAR_COLUMN = 5  # the page draws the interval before this column
SIGNIFICANCE = 0.05
PAIR_WIDTH = 3.0  # inches of the names beside the intervals, at most
FIRST_WORSE, FIRST_BETTER, NO_DIFFERENCE = "#d55e00", "#0072b2", "#777777"


def run_comparison_table(record: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown: the compared runs and a row per metric and pair of methods."""
    rows = [_cells(row, record["metrics"]) for row in record["pairs"]]
    return "\n".join([*_facts(record), "", markdown_table(COLUMNS, rows)]) + "\n"


def _cells(row: Row, metrics: Mapping[str, Any]) -> list[str]:
    """Return a row's cells under COLUMNS; an undefined number is empty."""
    return [
        with_arrow(row["metric"], metrics[row["metric"]]),
        row["first"],
        row["second"],
        format_number(row["mean"], "+.4f"),
        format_interval(row, "+.4f"),
        format_number(row["win_rate"], ".1%"),
        _format_p(row["p"]),
        _format_p(row["p_holm"]),
        str(row["n"]),
        str(row["undefined"]),
    ]


def _format_p(value: float | None) -> str:
    is_small = value is not None and value < 0.001
    return format_number(value, ".1e" if is_small else ".2g")


def _facts(record: Mapping[str, Any]) -> list[str]:
    """Return lines that describe the compared runs and explain the table."""
    runs = ", ".join(run["name"] for run in record["runs"])
    test_count = sum(row["p"] is not None for row in record["pairs"])
    lines = [
        f"{record['images']} images in {runs}. The difference is the first method's score minus the second's on the same image. "
        "The win rate is the fraction of images on which the first method is better (ties count as one half).",
        f"{record['test']} Number of tests: {test_count}.",
    ]
    if record["repeated"]:
        lines.append(
            f"Methods that are in several runs with identical settings are used once: {', '.join(record['repeated'])}."
        )
    if record["left_out"]:
        lines.append(f"Metrics that are not in every run are skipped: {', '.join(record['left_out'])}.")
    return lines


def verdict_color(row: Row, better: str) -> str:
    """Return the color of a row: which method is better, or neither by Holm's p or by the metric. better: of the metric."""
    if better == "neither" or row["p_holm"] is None or row["p_holm"] >= SIGNIFICANCE:
        return NO_DIFFERENCE
    is_first_better = (row["mean"] > 0) == (better == "higher")
    return FIRST_BETTER if is_first_better else FIRST_WORSE


def draw_differences(record: Mapping[str, Any], formats: Sequence[str]) -> dict[str, bytes]:
    """Return the figure by format: a panel per metric, with each pair's mean difference and its interval.

    A difference is colored if Holm's p is below SIGNIFICANCE.
    """
    with paper_style():
        figure = make_differences_figure(record)
        return {form: save_figure(figure, form) for form in formats}


def make_differences_figure(record: Mapping[str, Any]) -> Any:
    """Return the matplotlib figure of ``draw_differences``. Rows are as high as the lines of the names of their methods."""
    rows_by_metric = {label: [row for row in record["pairs"] if row["metric"] == label] for label in record["metrics"]}
    names = {label: [_name_pair(row) for row in rows] for label, rows in rows_by_metric.items()}
    texts = [lines for metric_names in names.values() for lines in metric_names]
    name_width = max((text_width(line, TEXT_SIZE) for lines in texts for line in lines), default=0)
    row_height = 0.055 + LINE_HEIGHT * max(map(len, texts), default=1)
    titles = {
        label: _title(label, metric["better"], PAGE_WIDTH - name_width - 0.3)
        for label, metric in record["metrics"].items()
    }
    heights = [
        row_height * len(rows) + LINE_HEIGHT * len(titles[label]) + 0.2 for label, rows in rows_by_metric.items()
    ]
    figure = new_figure(PAGE_WIDTH, sum(heights) + 0.35, layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, (label, rows) in zip(panels, rows_by_metric.items(), strict=True):
        _draw_panel(axis, rows, names[label], titles[label], record["metrics"][label]["better"])
    return figure


def _name_pair(row: Row) -> list[str]:
    """Return ``first − second`` as lines of at most PAIR_WIDTH: one if it fits, else the second method begins a new line."""
    first, second = f"{printable(row['first'])} −", printable(row["second"])
    lines = wrap_text(f"{first} {second}", PAIR_WIDTH, TEXT_SIZE)
    if len(lines) == 1:
        return lines
    return wrap_text(first, PAIR_WIDTH, TEXT_SIZE) + wrap_text(second, PAIR_WIDTH, TEXT_SIZE)


def _title(label: str, better: str, width: float) -> list[str]:
    """Return the title of a metric as lines of at most ``width`` inches."""
    title = f"{printable(label)}: mean difference with 95% CI"
    if better != "neither":
        title += f" ({'right' if better == 'higher' else 'left'} of zero: the first method is better)"
    return wrap_text(title, width, HEADING_SIZE)


def _draw_panel(
    axis: Any, rows: Sequence[Row], names: Sequence[Sequence[str]], title: Sequence[str], better: str
) -> None:
    for y, row in enumerate(rows):
        if row["mean"] is not None:
            _draw_interval(axis, y, row, verdict_color(row, better))
    axis.axvline(0, color="black", lw=0.6)
    axis.set_yticks(range(len(rows)), ["\n".join(lines) for lines in names], parse_math=False)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_title("\n".join(title), size=HEADING_SIZE, loc="left", parse_math=False)
    axis.tick_params(labelsize=TEXT_SIZE, length=2)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _draw_interval(axis: Any, y: int, row: Row, color: str) -> None:
    if row["low"] is not None:
        axis.plot((row["low"], row["high"]), (y, y), color=color, lw=1.4, solid_capstyle="butt")
    axis.plot(row["mean"], y, "o", color=color, ms=3.5, mfc="white" if color == NO_DIFFERENCE else color)


def make_run_comparison_page(record: Mapping[str, Any], sweeps: Mapping[str, bytes] | None = None) -> str:
    """Return the page: the table with drawn intervals, and each method's means. It needs no script and no network.

    sweeps: PNG plots against a parameter, by the name of the file beside the page.
    """
    metrics = record["metrics"]
    scales = {label: _largest_magnitude(record["pairs"], label) for label in metrics}
    rows = []
    for row in record["pairs"]:
        label = row["metric"]
        bar = _interval_bar(row, scales[label], verdict_color(row, metrics[label]["better"]))
        rows.append((_cells(row, metrics), bar))
    return render_page(
        "run_comparison.html",
        facts=_facts(record),
        significance=SIGNIFICANCE,
        header=COLUMNS,
        bar_column=BAR_COLUMN,
        rows=rows,
        means_header=["method", "run", *metrics],
        sweeps={name: data_url(content) for name, content in (sweeps or {}).items()},
        means=[_means_row(method, metrics) for method in record["arms"]],
    )


def _largest_magnitude(rows: Sequence[Row], metric: str) -> float:
    """Return the largest magnitude of the means and interval limits of a metric, which is the common scale of its bars."""
    values = [row[key] for row in rows if row["metric"] == metric for key in ("low", "high", "mean")]
    return max((abs(value) for value in values if value is not None), default=0) or 1


def _interval_bar(row: Row, largest: float, color: str) -> dict[str, str] | None:
    """Return the horizontal positions of an interval in a bar 160 wide, and its color; None without a mean."""
    if row["mean"] is None:
        return None
    bar = {"color": color}
    for key in ("low", "mean", "high"):
        value = row["mean"] if row[key] is None else row[key]
        bar[key] = f"{80 + 75 * value / largest:.1f}"
    return bar


def _means_row(method: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return a method's name, its run and its mean by each metric, with its interval."""
    cells = [method["name"], method["run"]]
    for label in metrics:
        mean = method["means"][label]
        text = format_number(mean["mean"])
        if text and mean["low"] is not None:
            text += f" [{mean['low']:.4f}, {mean['high']:.4f}]"
        cells.append(text)
    return cells
