"""``report.html``: a run's table, mean curves and example pictures, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xplain.reports.coverage import coverage_notes
from xplain.reports.curve_plot import make_curve_plot
from xplain.reports.groups import group_rows
from xplain.reports.label_accuracy import describe_accuracy
from xplain.reports.map_notes import annotation_notes, unusable_map_notes
from xplain.reports.paper_settings import difference_warning
from xplain.reports.published import format_published, has_published, published_notes
from xplain.reports.render import read_record
from xplain.reports.repeated_maps import repeat_notes
from xplain.reports.tables import format_number, has_chance, with_arrow
from xplain.reports.templates import data_url, render_page

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")  # Okabe and Ito
GALLERY_TITLES = {"best": "Best explanations", "worst": "Worst explanations"}  # by the "place" in a picture's record


def make_evaluation_page(
    summary: Mapping[str, Any], pictures: Sequence[Path], provenance: str, sweeps: Mapping[str, bytes] | None = None
) -> str:
    """Return the page of a run.

    summary: as ``summarize_run`` returns it.
    pictures: PNG files of overlays, whose embedded records describe what they show.
    provenance: text that is shown as it is.
    sweeps: PNG plots against a parameter, by the name of the file beside the page.
    """
    run = summary["run"]
    colors = {method: COLORS[index % len(COLORS)] for index, method in enumerate(run["methods"])}
    group_header, rows_of_groups = group_rows(summary)
    plots = [make_curve_plot(summary, metric, colors) for metric in run["metrics"]]
    return render_page(
        "evaluation.html",
        facts=_facts(summary),
        warnings=summary["warnings"],
        header=_table_header(summary),
        rows=[_table_row(summary, row) for row in summary["rows"]],
        group_header=group_header,
        group_rows=rows_of_groups,
        interval=summary["interval"]["kind"],
        metric_notes=_list_notes(summary),
        colors=colors,
        plots=[plot for plot in plots if plot is not None],
        difference=difference_warning(summary.get("published", {}).get("differences", [])),
        sweeps={name: data_url(content) for name, content in (sweeps or {}).items()},
        published=published_notes(summary),
        galleries=_galleries(pictures, next(iter(run["methods"]))),
        provenance=provenance,
    )


def _list_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what to know about metrics and external maps."""
    metrics = summary["run"]["metrics"]
    notes = [f"{label} {metric['note']}" for label, metric in metrics.items() if "note" in metric]
    notes += annotation_notes(summary) + repeat_notes(summary)
    return notes + [note.removesuffix(".") for note in unusable_map_notes(summary)]


def _facts(summary: Mapping[str, Any]) -> list[str]:
    """Return short texts that describe the evaluated images, the model and the settings."""
    run, items = summary["run"], summary["items"]
    model = run["fingerprint"]["model"]  # None if no metric evaluates single images
    facts = [run["dataset"]["location"]]
    if model:
        facts = [f"{items['evaluated']} of {items['of']} images from {facts[0]}", f"model {model['name']}"]
    facts += [f"protocol: {run.get('protocol') or 'xplain'}", f"target: {run['fingerprint']['target']}"]
    facts += describe_accuracy(summary)
    if items["failed"]:
        facts.append(f"failed images: {items['failed']}")
    return facts + coverage_notes(summary)


def _table_header(summary: Mapping[str, Any]) -> list[str]:
    first = next(iter(summary["run"]["methods"]))
    chance = ["chance"] if has_chance(summary) else []
    published = ["published"] if has_published(summary) else []
    return [
        "metric",
        "method",
        "mean",
        *chance,
        *published,
        "95% CI",
        "SD",
        "n",
        "undefined",
        f"difference from {first}",
    ]


def _table_row(summary: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    metric = summary["run"]["metrics"][row["metric"]]
    difference = row["difference"] or {}
    cells = [with_arrow(row["metric"], metric), row["method"], format_number(row["mean"])]
    if has_chance(summary):
        cells.append(format_number(row.get("chance")))
    if has_published(summary):
        cells.append(format_published(row["published"]))
    return [
        *cells,
        _format_range(row),
        format_number(row["std"]),
        str(row["n"]),
        ", ".join(f"{count} ({reason})" for reason, count in row["undefined"].items()),
        f"{format_number(difference.get('mean'), '+.4f')} {_format_range(difference)}".strip(),
    ]


def _format_range(estimate: Mapping[str, Any]) -> str:
    if estimate.get("low") is None:
        return ""
    return f"[{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _galleries(paths: Sequence[Path], method: str) -> list[dict[str, Any]]:
    """Return title and pictures of the best and the worst explanations of the first method."""
    pictures: dict[str, list[dict[str, str]]] = {place: [] for place in GALLERY_TITLES}
    metric = ""
    for path in paths:
        record = read_record(path) or {}
        metric = str(record.get("metric"))
        place = str(record.get("place"))
        if place in pictures:
            pictures[place].append(_read_picture(path, record))
    galleries = []
    for place, title in GALLERY_TITLES.items():
        if pictures[place]:
            galleries.append({"title": f"{title} of {method} according to {metric}", "pictures": pictures[place]})
    return galleries


def _read_picture(path: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Return a picture's caption, and its content as a data URL."""
    caption = f"{record.get('key')}: {record.get('name')}, {record.get('value', 0):.3f}"
    return {"caption": caption, "source": data_url(path.read_bytes())}
