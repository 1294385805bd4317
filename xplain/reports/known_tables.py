"""The tables of a report on known truth, without empty columns, and the meanings of the columns that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xplain.reports.known_methods import HEADLINES
from xplain.reports.known_metrics import ALL_KINDS
from xplain.reports.tables import format_interval, format_number

INTERVAL = "95% CI"
MEASURES = ("sign", "shape", "order", "evenness", "quiet", "silent")  # of methods, beside the AUROC
KIND_TEXTS = {
    "set": "where the relevant pixels are known",
    "value": "where the value of each block is known",
    "parts": "where the effects of parts are known",
    "silence": "where the score is constant",
}
METHOD_TERMS = {
    "values": "contributions are ranked by value, slopes (score per change of a pixel) and truths with both signs by magnitude",
    "auroc ↑": "probability that a pixel on which the score depends ranks above another one; a silent map counts ½",
    "sign": "share of the mass with the right sign",
    "shape": "1 - ‖cφ - T‖₁ / ‖T‖₁ over 4 x 4 blocks at the best scale c, for contributions to the logit",
    "order": "Spearman correlation with the effects of parts",
    "evenness": "evenness of the contributions of equal parts",
    "quiet": "share of maps that are zero where the score is constant",
    "silent": "share of constant maps, such as gradients where the score is saturated; they are never left out",
    "lowest auroc": "the mechanism with the lowest AUROC",
}
GRADES = (
    "Metrics are graded on maps of known quality, which have more and more of one kind of fault. The list below explains the columns, and "
    "the guide known-truth.md the faults"
)
FAULT = "grade on methods that have more and more of this fault"
METRIC_TERMS = {
    "grade ↑": "how often the metric gives the better of two maps of known quality the better value, ties ½ (chance 0.5)",
    "p (Holm)": "p-value against chance, corrected for the number of metrics",
    "resolution": "the least share of wrong pixels that the metric tells apart in 95 of 100 pairs",
    "swap": "grade on maps that exchange relevant pixels with others",
    "miss": "grade on maps that set relevant pixels to 0",
    "spill": "grade on maps that copy relevant pixels to others",
    "blur": "grade on blurred maps",
    "sign": "grade on maps with wrong signs; empty if the metric ignores signs",
    **dict.fromkeys(("weights", "draws", "noise", "rounding"), FAULT),
    "undefined": "number of maps of which the metric is undefined",
}


@dataclass(frozen=True)
class Table:
    """A titled table. description: a sentence, or "". terms: the meanings of its columns."""

    title: str
    description: str
    header: list[str]
    rows: list[list[str]]
    terms: dict[str, str]


def make_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return the tables that have rows. The table by mechanism needs several mechanisms."""
    tables = [_means_table(summary), _grades_table(summary), _preferences_table(summary)]
    if len(summary["mechanisms"]) > 1:
        tables.insert(0, _profile_table(summary))
    return [table for table in tables if table.rows]


def _make_table(
    title: str, description: str, header: Sequence[str], rows: Sequence[Sequence[str]], terms: Mapping[str, str]
) -> Table:
    """Return a table without the columns that are empty in all rows, and without the terms of these."""
    shown = [index for index in range(len(header)) if index == 0 or any(row[index] for row in rows)]
    names = [header[index] for index in shown]
    cells = [[row[index] for index in shown] for row in rows]
    return Table(title, description, names, cells, {name: terms[name] for name in names if name in terms})


def _profile_table(summary: Mapping[str, Any]) -> Table:
    """Return the headline measure of each method on each mechanism."""
    names = list(summary["mechanisms"])
    rows = [
        [row["method"], *(_short(row["profile"].get(name), name in row["refused"]) for name in names)]
        for row in summary["methods"]
        if row["profile"]
    ]
    kinds = dict.fromkeys(summary["mechanisms"].values())
    measures = [f"{HEADLINES[kind]} {KIND_TEXTS[kind]}" for kind in kinds]
    return _make_table("Methods by mechanism", f"Values: {', '.join(measures)}", ["method", *names], rows, {})


def _short(value: float | None, is_refused: bool = False) -> str:
    return "refused" if is_refused else format_number(value, ".2f")


def _means_table(summary: Mapping[str, Any]) -> Table:
    """Return the means of each method over the mechanisms that have a measure."""
    has_several = len(summary["mechanisms"]) > 1
    rows = []
    for row in summary["methods"]:
        if not row["profile"]:
            continue
        auroc, worst = row["auroc"] or {"mean": None, "low": None}, row["worst"]
        rows.append(
            [
                row["method"],
                "slopes" if row["slopes"] else "contributions",
                format_number(auroc["mean"], ".3f"),
                format_interval(auroc, ".3f"),
                *(format_number(row[name] and row[name]["mean"], ".2f") for name in MEASURES),
                f"{worst['mechanism']} {worst['auroc']:.2f}" if worst and has_several else "",
            ]
        )
    header = ["method", "values", "auroc ↑", INTERVAL, *MEASURES, "lowest auroc"]
    description = "Means over the mechanisms that have the measure" if has_several else ""
    return _make_table("Methods", description, header, rows, METHOD_TERMS)


def _grades_table(summary: Mapping[str, Any]) -> Table:
    """Return the grade of each metric."""
    rows = []
    for row in summary["metrics"]:
        grade = row["grade"]
        rows.append(
            [
                row["metric"],
                format_number(grade["mean"], ".3f"),
                format_interval(grade, ".3f"),
                format_number(row["p_holm"], ".2g"),
                "none" if row["resolution"] is None else f"{row['resolution']:g}",
                *(_short(row["by_kind"][kind]) for kind in ALL_KINDS),
                f"{row['undefined']} of {row['maps']}" if row["undefined"] else "",
                row["verdict"],
            ]
        )
    header = ["metric", "grade ↑", INTERVAL, "p (Holm)", "resolution", *ALL_KINDS, "undefined", "verdict"]
    return _make_table("Metrics", GRADES, header, rows, METRIC_TERMS)


def _preferences_table(summary: Mapping[str, Any]) -> Table:
    """Return the biases of each metric and its preference of the best map over controls."""
    rows = []
    for row in summary["metrics"]:
        biases = [
            f"{bias['mean']:+.2f} ({bias['low']:+.2f} to {bias['high']:+.2f})" if bias["low"] is not None else ""
            for bias in row["bias"].values()
        ]
        rows.append([row["metric"], *biases, *map(_short, row["controls"].values())])
    first = summary["metrics"][0] if summary["metrics"] else {"bias": {}, "controls": {}}
    header = [bias["prefers"] for bias in first["bias"].values()]
    header = ["metric", *header, *(f"best to {name}" for name in first["controls"])]
    description = (
        "The columns with intervals say how much more often than half the metric prefers the first of two maps of equal quality to the "
        "second (0 is right), the others how often it prefers the best map to a control (1 is right)"
    )
    return _make_table("Preferences of metrics", description, header, rows, {})
