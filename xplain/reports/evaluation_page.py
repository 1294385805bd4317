"""``report.html``: a run's table, mean curves and example pictures, in one file that needs no network."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xplain.reports.control import find_control
from xplain.reports.coverage import coverage_notes, narrow_interval_notes, protocol_notes, undefined_image_notes
from xplain.reports.curve_plot import make_curve_plot
from xplain.reports.groups import group_rows
from xplain.reports.interval_bars import make_interval_bars
from xplain.reports.label_accuracy import describe_accuracy
from xplain.reports.map_encoding import encode_image
from xplain.reports.map_notes import annotation_notes, unusable_map_notes
from xplain.reports.paper_settings import difference_warning
from xplain.reports.published import format_published, has_published, published_notes
from xplain.reports.render import read_record
from xplain.reports.repeated_maps import repeat_notes
from xplain.reports.tables import format_number, has_chance, with_arrow
from xplain.reports.templates import data_url, render_page

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")  # Okabe and Ito
INTERVAL = "95% CI"
Row = Mapping[str, Any]  # of a summary: one method by one metric
SMALL_SIDE = 112  # pixels; smaller pictures are enlarged without blur
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
        header=list(_table_columns(summary)),
        rows=_table_rows(summary, colors),
        control=find_control(run),
        any_marked=any(_mark(summary, row) for row in summary["rows"]),
        interval_header=INTERVAL,
        group_header=group_header,
        group_rows=rows_of_groups,
        interval=summary["interval"]["kind"],
        trial_metrics=[label for label, metric in run["metrics"].items() if "scope" in metric],
        interval_notes=narrow_interval_notes(summary),
        metric_notes=_list_notes(summary),
        colors=colors,
        plots=[plot for plot in plots if plot is not None],
        difference=difference_warning(summary.get("published", {}).get("differences", [])),
        sweeps={name: data_url(content) for name, content in (sweeps or {}).items()},
        published=published_notes(summary),
        galleries=_galleries(pictures, list(run["methods"])),
        provenance=provenance,
    )


def _list_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what to know about metrics and external maps."""
    metrics = summary["run"]["metrics"]
    notes = [f"{label} {metric['note']}" for label, metric in metrics.items() if "note" in metric]
    notes += annotation_notes(summary) + repeat_notes(summary) + undefined_image_notes(summary)
    return notes + [note.removesuffix(".") for note in unusable_map_notes(summary)]


def _facts(summary: Mapping[str, Any]) -> list[str]:
    """Return short texts that describe the evaluated images, the model and the settings."""
    run, items = summary["run"], summary["items"]
    model = run["fingerprint"]["model"]  # None if no metric evaluates single images
    facts = [run["dataset"]["location"]]
    if model:
        facts = [f"{items['evaluated']} of {items['of']} images from {facts[0]}", f"model {model['name']}"]
    facts += [*protocol_notes(run), f"target: {run['fingerprint']['target']}", *describe_accuracy(summary)]
    if items["failed"]:
        facts.append(f"failed images: {items['failed']}")
    return facts + coverage_notes(summary)


def _table_columns(summary: Mapping[str, Any]) -> dict[str, Callable[[Row], str]]:
    """Return, by the header of each column, what writes its cell of a row. Columns that would be empty are left out."""
    run, rows = summary["run"], summary["rows"]
    first, control = next(iter(run["methods"])), find_control(run)
    columns: dict[str, Callable[[Row], str]] = {
        "metric": lambda row: with_arrow(row["metric"], run["metrics"][row["metric"]]).replace(" ", "\u00a0"),
        "method": lambda row: row["method"],
        "mean": lambda row: format_number(row["mean"]),
    }
    if has_chance(summary):
        columns["chance"] = lambda row: format_number(row.get("chance"))
    if has_published(summary):
        columns["published"] = lambda row: format_published(row["published"])
    columns[INTERVAL] = _format_range
    columns["SD"] = lambda row: format_number(row["std"])
    columns["n"] = lambda row: str(row["n"])
    if any(row["undefined"] for row in rows):
        columns["undefined"] = _list_undefined
    if any(row.get("control") for row in rows):
        columns[f"minus {control}"] = lambda row: _describe_difference(row.get("control"))
    if first != control and any(row["difference"] for row in rows):
        columns[f"minus {first}"] = lambda row: _describe_difference(row["difference"])
    return columns


def _table_rows(summary: Mapping[str, Any], colors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return, for each row, its cells, the bar of its interval or None, and the text of its mark or ""."""
    bars = {metric: make_interval_bars(summary, metric) for metric in summary["run"]["metrics"]}
    columns = _table_columns(summary)
    return [
        {
            "cells": [write(row) for write in columns.values()],
            "bar": bars[row["metric"]].get(row["method"]),
            "color": colors[row["method"]],
            "mark": _mark(summary, row),
            "reason": _describe_difference(row.get("control")),
        }
        for row in summary["rows"]
    ]


def _mark(summary: Mapping[str, Any], row: Row) -> str:
    """Return ``not better than random`` or ``worse than random``, or "" if a method is better than the control or not comparable."""
    verdict = row.get("verdict")
    return f"{verdict} than {find_control(summary['run'])}" if verdict in {"not better", "worse"} else ""


def _list_undefined(row: Row) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in row["undefined"].items())


def _describe_difference(difference: Mapping[str, Any] | None) -> str:
    """Return ``mean [low, high]``, where a line may break before the interval only."""
    if not difference:
        return ""
    interval = _format_range(difference).replace(" ", "\u00a0")
    return f"{format_number(difference.get('mean'), '+.4f')} {interval}".strip()


def _format_range(estimate: Mapping[str, Any]) -> str:
    if estimate.get("low") is None:
        return ""
    return f"[{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _galleries(paths: Sequence[Path], methods: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return title and pictures of the best and the worst explanations, for each method that has some.

    Pictures of earlier versions, whose records name no method, are of the first.
    """
    pictures: dict[tuple[str, str], list[dict[str, Any]]] = {
        (method, place): [] for method in methods for place in GALLERY_TITLES
    }
    metric = ""
    for path in paths:
        record = read_record(path) or {}
        metric = str(record.get("metric"))
        group = (str(record.get("method", methods[0])), str(record.get("place")))
        if group in pictures:
            pictures[group].append(_read_picture(path, record))
    galleries = [
        [
            {"title": f"{title} of {method} according to {metric}", "pictures": pictures[method, place]}
            for place, title in GALLERY_TITLES.items()
            if pictures[method, place]
        ]
        for method in methods
    ]
    return [places for places in galleries if places]


def _read_picture(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a picture's caption, what is wrong with the prediction, its content as a data URL, and whether it is small."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        is_small = max(picture.size) < SMALL_SIDE
        source = data_url(content) if is_small else encode_image(np.asarray(picture.convert("RGB")))
    labels = " and ".join(record.get("labels", ())) or "not recorded"
    return {
        "caption": f"{record.get('key')}: {record.get('name')}; {record.get('metric', 'value')} {record.get('value', 0):.3f}",
        "wrong": f"wrong prediction; label: {labels}" if record.get("correct") is False else "",
        "source": source,
        "small": is_small,
    }
