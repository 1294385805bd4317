"""A comparison of runs as Markdown, as a page, and as a figure of differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from xplain.core.files import printable
from xplain.reports.figures import HEAD, PAGE, SMALL, paper_style, save_figure

COLUMNS = ("metric", "first", "second", "difference", "95 % interval", "win rate", "p", "p (Holm)", "n", "undefined")
LEVEL = 0.05
WORSE, BETTER, NEITHER = "#d55e00", "#0072b2", "#777777"


def cells(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """A row's cells under COLUMNS; empty where there is no number."""
    arrow = "↑" if metrics[row["metric"]]["better"] == "higher" else "↓"
    interval = "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
    return [
        f"{row['metric']} {arrow}",
        row["first"],
        row["second"],
        "" if row["mean"] is None else f"{row['mean']:+.4f}",
        interval,
        "" if row["win_rate"] is None else f"{row['win_rate']:.1%}",
        _p(row["p"]),
        _p(row["p_holm"]),
        str(row["n"]),
        str(row["undefined"]),
    ]


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value >= 0.001 else f"{value:.1e}"


def facts(record: Mapping[str, Any]) -> list[str]:
    """What was compared, and how to read it."""
    runs = ", ".join(run["name"] for run in record["runs"])
    lines = [
        f"{record['images']} images in {runs}. The difference is the first method's score minus the second's on the same image; "
        "the win rate counts the images on which the first is better, and ties by half.",
        record["test"][0].upper()
        + record["test"][1:]
        + f". Tests: {sum(row['p'] is not None for row in record['pairs'])}.",
    ]
    if record["repeated"]:
        lines.append(f"Done twice under the same settings, and used once: {', '.join(record['repeated'])}.")
    if record["left_out"]:
        lines.append(f"Not in every run, and left out: {', '.join(record['left_out'])}.")
    return lines


def to_markdown(record: Mapping[str, Any]) -> str:
    """The facts and the table."""
    rows = [cells(row, record["metrics"]) for row in record["pairs"]]
    table = [COLUMNS, ["---"] * len(COLUMNS), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join([*facts(record), "", *("| " + " | ".join(row) + " |" for row in table)]) + "\n"


def verdict(row: Mapping[str, Any], better: str) -> str:
    """The colour of a row: better, worse, or neither after Holm's correction."""
    if row["p_holm"] is None or row["p_holm"] >= LEVEL:
        return NEITHER
    return BETTER if (row["mean"] > 0) == (better == "higher") else WORSE


def draw_differences(record: Mapping[str, Any], forms: Sequence[str]) -> dict[str, bytes]:
    """A panel a metric: each pair's mean difference with its interval; colour where Holm's p is under 0.05."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with paper_style():
        groups = {label: [r for r in record["pairs"] if r["metric"] == label] for label in record["metrics"]}
        heights = [len(rows) + 1.8 for rows in groups.values()]
        figure = Figure(figsize=(PAGE, 0.17 * sum(heights) + 0.35), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axis, (label, rows) in zip(panels, groups.items(), strict=True):
            _draw_panel(axis, label, rows, record["metrics"][label]["better"])
        return {form: save_figure(figure, form) for form in forms}


def _draw_panel(axis: Any, label: str, rows: Sequence[Mapping[str, Any]], better: str) -> None:
    for place, row in enumerate(rows):
        if row["mean"] is None:
            continue
        tint = verdict(row, better)
        if row["low"] is not None:
            axis.plot((row["low"], row["high"]), (place, place), color=tint, lw=1.4, solid_capstyle="butt")
        axis.plot(row["mean"], place, "o", color=tint, ms=3.5, mfc=tint if tint != NEITHER else "white")
    axis.axvline(0, color="black", lw=0.6)
    names = [printable(f"{row['first']} − {row['second']}") for row in rows]
    names = [name if len(name) <= 64 else name[:63] + "…" for name in names]
    axis.set_yticks(range(len(rows)), names, parse_math=False)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    side = "right" if better == "higher" else "left"
    title = f"{printable(label)}: mean difference with 95 % interval; {side} of zero, the first is better"
    axis.set_title(title, size=HEAD, loc="left", parse_math=False)
    axis.tick_params(labelsize=SMALL, length=2)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def make_runs_page(record: Mapping[str, Any]) -> str:
    """The table with its intervals drawn beside the numbers; needs no script and no network."""
    style = (files("xplain.reports") / "pages" / "style.css").read_text("utf-8")
    head = "".join(f"<th>{escape(each)}</th>" for each in (*COLUMNS[:5], "", *COLUMNS[5:]))
    body = []
    for row in record["pairs"]:
        same = [each for each in record["pairs"] if each["metric"] == row["metric"]]
        texts = [f"<td>{escape(text)}</td>" for text in cells(row, record["metrics"])]
        texts.insert(5, f"<td>{_bar(row, same, record['metrics'][row['metric']]['better'])}</td>")
        body.append("<tr>" + "".join(texts) + "</tr>")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>xplain compare</title><style>{style}</style></head><body>
<header><h1>Which method scores better?</h1>{"".join(f"<p>{escape(line)}</p>" for line in facts(record))}
<p>Blue: the first is better, orange: the second is, grey: not told apart (Holm's p from {LEVEL} on).</p></header>
<main><div class="scroll"><table class="numbers pairs"><tr>{head}</tr>{"".join(body)}</table></div>
<h2>Means</h2><div class="scroll">{_means(record)}</div></main></body></html>
"""


def _bar(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], better: str) -> str:
    """An interval as a small picture; one scale for all rows of a metric."""
    ends = [abs(v) for each in rows for v in (each["low"], each["high"], each["mean"]) if v is not None]
    widest = max(ends, default=0) or 1
    if row["mean"] is None:
        return ""

    def at(value: float) -> float:
        return 80 + 75 * value / widest

    low, high = (row["mean"] if row[key] is None else row[key] for key in ("low", "high"))
    tint = verdict(row, better)
    return (
        '<svg width="160" height="16" viewBox="0 0 160 16" role="img" aria-label="interval">'
        '<path d="M80 0V16" stroke="currentColor" stroke-width="1"/>'
        f'<path d="M{at(low):.1f} 8H{at(high):.1f}" stroke="{tint}" stroke-width="3"/>'
        f'<circle cx="{at(row["mean"]):.1f}" cy="8" r="4" fill="{tint}"/></svg>'
    )


def _means(record: Mapping[str, Any]) -> str:
    """Each method's mean by each metric, with its interval."""
    head = "".join(f"<th>{escape(each)}</th>" for each in ("method", "run", *record["metrics"]))
    body = []
    for arm in record["arms"]:
        texts = [arm["name"], arm["run"]]
        for label in record["metrics"]:
            mean = arm["means"][label]
            interval = "" if mean["low"] is None else f" [{mean['low']:.4f}, {mean['high']:.4f}]"
            texts.append("" if mean["mean"] is None else f"{mean['mean']:.4f}{interval}")
        body.append("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>")
    return f'<table class="numbers"><tr>{head}</tr>{"".join(body)}</table>'
