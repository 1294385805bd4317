"""Plot means with intervals against the values of a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xplain.core.files import printable
from xplain.reports.control import CONTROL
from xplain.reports.figures import HEADING_SIZE, TEXT_SIZE, new_figure, paper_style, save_figure
from xplain.reports.sweeps import MethodMean, Sweep, SweepCurve, find_sweeps, name_sweep_file, parse_numbers
from xplain.reports.text_layout import shorten

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = "osD^vP*"
PANELS_PER_ROW = 3
PANEL_WIDTH, PANEL_HEIGHT = 2.35, 2.2  # inches
LOG_RATIO = 10  # of the largest to the smallest value, from which the axis is logarithmic
MAX_TICKS = 8
DODGE = 2.5  # points between the intervals of two curves


def draw_sweeps(
    metric: str,
    description: Mapping[str, Any],
    sweeps: Sequence[Sweep],
    control: MethodMean | None,
    formats: Sequence[str],
) -> dict[str, bytes]:
    """Return the figure of a metric by format: a panel per method and parameter, and a curve per combination of the other parameters.

    description: of the metric, with ``better``. control: drawn as a horizontal line; None: not drawn.
    """
    columns = min(len(sweeps), PANELS_PER_ROW)
    rows = -(-len(sweeps) // columns)
    with paper_style():
        figure = new_figure(max(PANEL_WIDTH * columns, 3.2), PANEL_HEIGHT * rows + 0.25, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, sweep in zip(panels, sweeps, strict=False):
            _draw_panel(axis, sweep, control)
        for axis in panels[len(sweeps) :]:
            axis.set_visible(False)
        figure.suptitle(_title(metric, description, sweeps), size=HEADING_SIZE, parse_math=False)
        return {form: save_figure(figure, form) for form in formats}


def _title(metric: str, description: Mapping[str, Any], sweeps: Sequence[Sweep]) -> str:
    counts = {mean.estimate["n"] for sweep in sweeps for curve in sweep.curves for mean in curve.means}
    n = str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"{shorten(printable(metric), 40)} ({description['better']} is better), mean and 95% CI, n = {n}"


def _draw_panel(axis: Any, sweep: Sweep, control: MethodMean | None) -> None:
    values = list(dict.fromkeys(value for curve in sweep.curves for value in curve.values))
    numbers = parse_numbers(values)
    positions = dict(zip(values, range(len(values)) if numbers is None else numbers, strict=True))
    if control is not None and control.estimate["mean"] is not None:
        axis.axhline(control.estimate["mean"], color="#777777", lw=0.8, ls="--", label=shorten(control.name, 30))
        if control.estimate["low"] is not None:
            axis.axhspan(control.estimate["low"], control.estimate["high"], color="#777777", alpha=0.15, lw=0)
    for number, curve in enumerate(sweep.curves):
        name = shorten(printable(curve.fixed), 40) if curve.fixed else sweep.method
        shift = DODGE * (number - (len(sweep.curves) - 1) / 2)
        _draw_curve(axis, curve, positions, number, name, shift, connect=numbers is not None)
    _set_ticks(axis, positions, is_number=numbers is not None)
    _set_limits(axis, sweep, control, positions)
    axis.set_title(shorten(printable(sweep.method), 40), size=HEADING_SIZE, parse_math=False)
    axis.set_xlabel(printable(sweep.parameter), size=TEXT_SIZE, parse_math=False)
    axis.tick_params(labelsize=TEXT_SIZE, length=2)
    axis.spines[["top", "right"]].set_visible(False)
    names = axis.get_legend_handles_labels()[1]
    if len(names) > 1:
        columns = 2 if max(map(len, names)) < 20 else 1
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": columns}
        for text in axis.legend(fontsize=TEXT_SIZE - 1, frameon=False, **place).get_texts():
            text.set_parse_math(False)


def _draw_curve(
    axis: Any, curve: SweepCurve, positions: Mapping[str, float], number: int, name: str, shift: float, *, connect: bool
) -> None:
    """Draw the means with intervals; points of values that are not numbers are not connected. shift: to the right, in points."""
    from matplotlib.transforms import ScaledTranslation

    moved = axis.transData + ScaledTranslation(shift / 72, 0, axis.figure.dpi_scale_trans)
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    points = [
        (positions[value], mean.estimate)
        for value, mean in zip(curve.values, curve.means, strict=True)
        if mean.estimate["mean"] is not None
    ]
    for x, estimate in points:
        if estimate["low"] is not None:
            axis.plot((x, x), (estimate["low"], estimate["high"]), "_-", color=color, lw=1, ms=4, transform=moved)
    means = [estimate["mean"] for _, estimate in points]
    axis.plot(
        [x for x, _ in points],
        means,
        marker=marker,
        ls="-" if connect else "none",
        color=color,
        lw=1.2,
        ms=3.5,
        label=name,
        transform=moved,
    )


def _set_ticks(axis: Any, positions: Mapping[str, float], *, is_number: bool) -> None:
    """Mark the values of the parameter, on a logarithmic axis if they are numbers of different magnitudes."""
    ordered = sorted(positions.items(), key=lambda entry: entry[1])
    low, high = ordered[0][1], ordered[-1][1]
    if is_number and low > 0 and high / low >= LOG_RATIO:
        axis.set_xscale("log")
        axis.minorticks_off()
    stride = -(-len(ordered) // MAX_TICKS) if is_number else 1
    ticks = ordered[::stride]
    rotation = 0 if sum(len(value) for value, _ in ticks) <= 40 else 30
    axis.set_xticks(
        [x for _, x in ticks],
        [shorten(printable(value), 24) for value, _ in ticks],
        parse_math=False,
        rotation=rotation,
        ha="center" if rotation == 0 else "right",
    )


def _set_limits(axis: Any, sweep: Sweep, control: MethodMean | None, positions: Mapping[str, float]) -> None:
    """Show all intervals, with margins; matplotlib's own limits ignore that points are shifted."""
    means = [mean for curve in sweep.curves for mean in curve.means]
    estimates = [mean.estimate for mean in (*means, *([control] if control else []))]
    ends = [value for estimate in estimates for key in ("low", "mean", "high") if (value := estimate[key]) is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    axis.set_ylim(low - margin, high + margin)
    left, right = min(positions.values()), max(positions.values())
    if axis.get_xscale() == "log":
        factor = (right / left) ** 0.08
        axis.set_xlim(left / factor, right * factor)
    else:
        axis.set_xlim(left - 0.08 * (right - left), right + 0.08 * (right - left))


def draw_metric_sweeps(
    metrics: Mapping[str, Mapping[str, Any]], means: Mapping[str, Sequence[MethodMean]], formats: Sequence[str]
) -> dict[str, bytes]:
    """Return the plots of all metrics that have a sweep, by file name.

    metrics: description by label. means: of all methods, by metric; ``random`` is drawn as a line.
    """
    files = {}
    for metric, description in metrics.items():
        sweeps = find_sweeps(means.get(metric, ()))
        if sweeps:
            control = next((mean for mean in means[metric] if mean.label == CONTROL), None)
            for form, content in draw_sweeps(metric, description, sweeps, control, formats).items():
                files[f"{name_sweep_file(metric)}.{form}"] = content
    return files
