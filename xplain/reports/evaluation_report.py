"""The files that report an evaluation run: ``summary.json``, ``summary.csv``, ``summary.md``, ``report.html``, and those of groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xplain.core.files import to_json, write_file, write_json, write_text
from xplain.reports.coverage import (
    MIN_VALUES,
    count_images,
    coverage_notes,
    narrow_interval_notes,
    protocol_notes,
    undefined_image_notes,
)
from xplain.reports.evaluation_page import make_evaluation_page
from xplain.reports.groups import classes_csv, group_table
from xplain.reports.label_accuracy import describe_accuracy
from xplain.reports.map_notes import annotation_notes, unusable_map_notes
from xplain.reports.paper_settings import difference_warning
from xplain.reports.published import format_published, has_published, published_notes
from xplain.reports.repeated_maps import repeat_notes
from xplain.reports.sweep_plot import draw_metric_sweeps
from xplain.reports.sweeps import collect_means
from xplain.reports.tables import (
    csv_table,
    escape_cell,
    format_interval,
    format_number,
    has_chance,
    markdown_table,
    with_arrow,
)

CSV_COLUMNS = (
    "method",
    "metric",
    "mean",
    "std",
    "low",
    "high",
    "n",
    "undefined",
    "difference",
    "difference_low",
    "difference_high",
)
CONTROL_COLUMNS = ("minus_random", "minus_random_low", "minus_random_high")  # the paired difference to the control


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``, ``summary.csv``, ``summary.md`` and ``report.html`` into a run directory, each atomically.

    Writes ``sweep.METRIC.png`` per metric if methods differ in one parameter, and ``groups.md`` and ``classes.csv`` if images have
    labels.

    summary: as ``summarize_run`` returns it, with ``published`` if ``add_published`` added a paper's values.
    Raises InputError if a file cannot be written.
    """
    provenance = to_json({key: value for key, value in summary["run"].items() if key != "metrics"}, indent=1)
    pictures = sorted(folder.joinpath("gallery").glob("*.png"))
    plots = draw_metric_sweeps(summary["run"]["metrics"], collect_means(summary["rows"]), ("png",))
    for name, content in plots.items():
        write_file(folder / name, content)
    write_text(folder / "report.html", make_evaluation_page(summary, pictures, provenance, plots))
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.csv", evaluation_csv(summary))
    if by_class := classes_csv(summary):
        write_text(folder / "classes.csv", by_class)
        write_text(folder / "groups.md", group_table(summary))
    write_text(folder / "summary.md", evaluation_table(summary))


def evaluation_csv(summary: Mapping[str, Any]) -> str:
    """Return the summary's rows as CSV; undefined numbers are empty."""
    columns = [*CSV_COLUMNS]
    if "published" in summary:
        columns.append("published")
    columns += CONTROL_COLUMNS
    return csv_table(columns, [_csv_row(row, columns) for row in summary["rows"]])


def _csv_row(row: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    none = {"mean": None, "low": None, "high": None}
    difference, minus_random = row["difference"] or none, row.get("control") or none
    values = {
        **row,
        "undefined": sum(row["undefined"].values()),
        "difference": difference["mean"],
        "difference_low": difference["low"],
        "difference_high": difference["high"],
        "minus_random": minus_random["mean"],
        "minus_random_low": minus_random["low"],
        "minus_random_high": minus_random["high"],
    }
    return {column: values[column] for column in columns}


def evaluation_table(summary: Mapping[str, Any]) -> str:
    """Return the summary as Markdown: headline, warnings, table with intervals, and notes."""
    lines = [_headline(summary)]
    lines += [f"\n**Warning:** {text}." for text in summary["warnings"]]
    lines += ["", _means_table(summary), *_list_notes(summary)]
    return "\n".join(lines) + "\n"


def terminal_table(summary: Mapping[str, Any]) -> str:
    """Return the summary as Markdown with fewer digits and columns. The warnings are left out, because commands print them."""
    lines = [_headline(summary), "", _short_table(summary), *_list_notes(summary)]
    return "\n".join(lines) + "\n"


def _list_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return the lines after the table of means."""
    lines: list[str] = []
    if warning := difference_warning(summary.get("published", {}).get("differences", [])):
        lines += ["", f"**Warning:** {escape_cell(warning)}."]
    notes = [*narrow_interval_notes(summary), *annotation_notes(summary), *repeat_notes(summary)]
    notes += undefined_image_notes(summary)
    lines += [line for text in notes for line in ("", f"{text}.")]
    for text in unusable_map_notes(summary):
        lines += ["", text]
    if "sweeps" in summary:
        lines += [
            "",
            f"Plots of the means against a parameter: {', '.join(entry['file'] for entry in summary['sweeps'])}",
        ]
    for title, texts in published_notes(summary).items():
        lines += ["", f"{title}:", *(f"- {text}" for text in texts)]
    for label, metric in summary["run"]["metrics"].items():
        if "places" in metric:
            lines += ["", _curves_table(summary, label)]
        if "note" in metric:
            lines += ["", f"{label} {metric['note']}."]
    return lines


def _headline(summary: Mapping[str, Any]) -> str:
    """Return one line about the images, the model and the protocol."""
    run, items = summary["run"], summary["items"]
    data = escape_cell(run["dataset"]["location"])
    model = run["fingerprint"]["model"]  # None if no metric evaluates single images
    if model:
        data = f"{count_images(summary)} from {data}, model {model['name']}"
    clauses = [data, *protocol_notes(run), f"target: {run['fingerprint']['target']}", *describe_accuracy(summary)]
    if items["failed"]:
        clauses.append(f"failed images: {items['failed']}")
    clauses += coverage_notes(summary)
    return "; ".join(clauses)


def _means_table(summary: Mapping[str, Any]) -> str:
    """Return a table with a row per method and metric. ``minus random`` is the paired difference to the control."""
    run = summary["run"]
    first = next(iter(run["methods"]))
    with_published = has_published(summary)
    published = ["published"] if with_published else []
    chance = ["chance"] if has_chance(summary) else []
    minus_random = ["minus random"] if any(row.get("control") for row in summary["rows"]) else []
    header = [
        "metric",
        "method",
        "mean",
        *chance,
        *published,
        interval_name(summary),
        "n",
        "undefined",
        f"difference from {first}",
        *minus_random,
    ]
    rows = []
    for row in summary["rows"]:
        reasons = ", ".join(f"{count} ({reason})" for reason, count in row["undefined"].items())
        cells = [with_arrow(row["metric"], run["metrics"][row["metric"]]), row["method"]]
        cells.append(format_number(row["mean"]))
        if chance:
            cells.append(format_number(row.get("chance")))
        if with_published:
            cells.append(format_published(row["published"]))
        cells += [format_interval(row), str(row["n"]), reasons or "0", format_difference(row["difference"])]
        if minus_random:
            cells.append(format_control_difference(row))
        rows.append(cells)
    return markdown_table(header, rows)


def _short_table(summary: Mapping[str, Any]) -> str:
    """Return a table with a row per method and metric for a terminal. Each metric is named once."""
    run = summary["run"]
    optional = {
        "chance": has_chance(summary),
        "published": has_published(summary),
        "minus random": any(row.get("control") for row in summary["rows"]),
        "undefined": any(row["undefined"] for row in summary["rows"]),
    }
    names = [
        "metric",
        "method",
        "mean",
        "chance",
        "published",
        interval_name(summary),
        "minus random",
        "n",
        "undefined",
    ]
    header = [name for name in names if optional.get(name, True)]
    rows, previous = [], None
    for row in summary["rows"]:
        spec = _number_format(summary, row["metric"])
        cells = {
            "metric": "" if row["metric"] == previous else with_arrow(row["metric"], run["metrics"][row["metric"]]),
            "method": row["method"],
            "mean": format_number(row["mean"], spec),
            "chance": format_number(row.get("chance"), spec),
            "published": format_published(row["published"]) if optional["published"] else "",
            interval_name(summary): format_interval(row, spec),
            "minus random": format_control_difference(row, spec),
            "n": str(row["n"]),
            "undefined": ", ".join(f"{count} ({reason})" for reason, count in row["undefined"].items()),
        }
        rows.append([cells[name] for name in header])
        previous = row["metric"]
    return markdown_table(header, rows)


def _number_format(summary: Mapping[str, Any], metric: str) -> str:
    """Return the format of the values of a metric: three decimals, or three digits if the values are small or large."""
    means = [abs(row["mean"]) for row in summary["rows"] if row["metric"] == metric and row["mean"] is not None]
    return ".3f" if 0.01 <= max(means, default=1.0) < 1000 else ".3g"


def _curves_table(summary: Mapping[str, Any], metric: str) -> str:
    """Return a table of the mean curves of a metric that has few points."""
    shares = summary["run"]["metrics"][metric]["places"]
    header = [f"{metric}, removed fraction", *(f"{100 * share:.4g}%" for share in shares)]
    rows = []
    for row in summary["rows"]:
        if row["metric"] == metric and row["curve"]:
            rows.append([row["method"], *map(format_number, row["curve"])])
    return markdown_table(header, rows)


def interval_name(summary: Mapping[str, Any]) -> str:
    """Return the header of the interval column, such as ``95% CI (BCa)``."""
    name = f"{100 * summary['interval']['level']:.0f}% CI"
    return f"{name} (BCa)" if summary["interval"]["kind"] == "bca" else name


def format_control_difference(row: Mapping[str, Any], spec: str = ".4f") -> str:
    """Return the difference to the control, such as ``+0.1000 (0.0500 to 0.1500), better``. Few values have no verdict."""
    text = format_difference(row.get("control"), spec)
    return f"{text}, {row['verdict']}" if row.get("verdict") and row["n"] >= MIN_VALUES else text


def format_difference(difference: Mapping[str, Any] | None, spec: str = ".4f") -> str:
    """Return ``+0.1000 (0.0500 to 0.1500)``, or "" without a difference."""
    if difference is None or difference["mean"] is None:
        return ""
    text = f"{difference['mean']:+{spec}}"
    return f"{text} ({format_interval(difference, spec)})" if difference["low"] is not None else text
