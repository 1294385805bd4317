"""The files that report a run on known truth: ``summary.json``, ``summary.csv``, ``summary.md`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xplain.core.files import to_json, write_json, write_text
from xplain.reports.known_methods import HEADLINES, SUMMARIZED
from xplain.reports.known_metrics import ALL_KINDS
from xplain.reports.tables import csv_table, format_interval, format_number, markdown_table
from xplain.reports.templates import render_page

CSV_COLUMNS = ("kind", "name", "measure", "mechanism", "value", "low", "high", "n")
METHOD_COLUMNS = {
    "sign": "sign",
    "shape": "shape",
    "order": "order",
    "evenness": "evenness",
    "quiet": "quiet",
    "silent": "silent",
}
NOTES = (
    "auroc: probability that a pixel on which the score depends ranks above another one; a silent map counts ½. Contributions are "
    "ranked by value, slopes and signed truths by magnitude",
    "sign: share of the mass with the right sign. shape: 1 - ‖cφ - T‖₁ / ‖T‖₁ over 4 x 4 blocks at the best scale c, for contributions "
    "to the logit. order: Spearman correlation with the effects of parts. evenness: of equal parts. quiet: share of maps that are zero "
    "where the score is constant. silent: share of constant maps, which are never left out",
    "grade: how often the metric gives the better of two maps of known quality the better value, ties ½ (chance 0.5). resolution: the "
    "least share of wrong pixels that it tells apart in 95 of 100 pairs. weights, draws, noise, rounding: grades on methods that have "
    "more and more of this fault. A metric that ignores signs is not graded on them",
    "bias: how much more often than half the metric prefers one of two maps of equal quality",
)


def write_known_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the reports into a run directory, each atomically. Raises InputError if a file cannot be written."""
    write_text(folder / "report.html", make_known_page(summary))
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.csv", csv_table(CSV_COLUMNS, _csv_rows(summary)))
    write_text(folder / "summary.md", known_table(summary))


def known_table(summary: Mapping[str, Any]) -> str:
    """Return the summary as Markdown: the profiles, the means of methods, and the grades of metrics."""
    lines = [headline(summary)]
    for title, (header, rows) in _tables(summary).items():
        if rows:
            lines += ["", f"{title}:", "", markdown_table(header, rows)]
    lines += [line for text in _list_refused(summary) for line in ("", text)]
    lines += [line for text in NOTES for line in ("", f"{text}.")]
    return "\n".join(lines) + "\n"


def make_known_page(summary: Mapping[str, Any]) -> str:
    """Return ``report.html``: the same tables, with cells colored by their value."""
    return render_page(
        "known_truth.html",
        headline=headline(summary),
        tables=[
            {"title": title, "header": header, "rows": [[_cell(text) for text in row] for row in rows]}
            for title, (header, rows) in _tables(summary).items()
            if rows
        ],
        notes=[*_list_refused(summary), *NOTES],
        provenance=to_json(summary["run"], indent=1),
    )


def headline(summary: Mapping[str, Any]) -> str:
    """Return one line about the mechanisms, the images and the seed."""
    count, images = len(summary["mechanisms"]), summary["images"]
    name = summary["run"]["dataset"]["location"] if count > 1 else f"known:{next(iter(summary['mechanisms']))}"
    units = "mechanisms, then images" if count > 1 else "images"
    return (
        f"Known truth: {name}, {count} mechanism{'s' * (count != 1)} with {images} image{'s' * (images != 1)} each; seed "
        f"{summary['run']['fingerprint']['seed']}; intervals: 95% bootstrap over {units}"
    )


def _tables(summary: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return header and rows of each table by title."""
    return {
        "By mechanism ("
        + ", ".join(f"{measure} for the kind {kind}" for kind, measure in HEADLINES.items())
        + ")": _profile_table(summary),
        "Means over mechanisms": _means_table(summary),
        "Grades of metrics": _grades_table(summary),
        "What metrics prefer at equal quality, and how often they prefer the best map to a control": _bias_table(
            summary
        ),
    }


def _profile_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the headline measure of each method on each mechanism."""
    names = list(summary["mechanisms"])
    rows = [
        [row["method"], *(_short(row["profile"].get(name), name in row["refused"]) for name in names)]
        for row in summary["methods"]
        if row["profile"]
    ]
    return ["method", *names], rows


def _short(value: float | None, is_refused: bool = False) -> str:
    return "refused" if is_refused else format_number(value, ".2f")


def _means_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the means of each method over the mechanisms that have a measure."""
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
                *(format_number(row[name] and row[name]["mean"], ".2f") for name in METHOD_COLUMNS),
                f"{worst['mechanism']} {worst['auroc']:.2f}" if worst else "",
            ]
        )
    return ["method", "values", "auroc ↑", "95% CI", *METHOD_COLUMNS.values(), "worst auroc"], rows


def _grades_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the grade of each metric. Kinds that no metric has are left out."""
    rows = []
    shown = [kind for kind in ALL_KINDS if any(row["by_kind"][kind] is not None for row in summary["metrics"])]
    for row in summary["metrics"]:
        resolution = "none" if row["resolution"] is None else f"{row['resolution']:g}"
        kinds = [_short(row["by_kind"][kind]) for kind in shown]
        p = "" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        undefined = f"{row['undefined']} of {row['maps']}"
        grade = row["grade"]
        rows.append(
            [
                row["metric"],
                format_number(grade["mean"], ".3f"),
                format_interval(grade, ".3f"),
                p,
                resolution,
                *kinds,
                undefined,
                row["verdict"],
            ]
        )
    return ["metric", "grade ↑", "95% CI", "p (Holm)", "resolution", *shown, "undefined", "verdict"], rows


def _bias_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
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
    return ["metric", *header, *(f"best to {name}" for name in first["controls"])], rows


def _list_refused(summary: Mapping[str, Any]) -> list[str]:
    """Return a line per reason why methods do not fit mechanisms."""
    lines = []
    for row in summary["methods"]:
        count = len(row["refused"])
        if count:
            name, reason = next(iter(row["refused"].items()))
            where = "any mechanism" if not row["profile"] else f"{count} mechanism{'s' * (count != 1)}, such as {name}"
            lines.append(f"{row['method']} does not fit {where}: {reason}")
    return lines


def _csv_rows(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the means over mechanisms (``all``) and of each mechanism."""
    for row in summary["methods"]:
        for measure in SUMMARIZED:
            if row[measure] is not None:
                yield _csv_row("method", row["method"], measure, "all", row[measure])
        for name, measures in row["by_mechanism"].items():
            for measure in SUMMARIZED:
                if measure in measures:
                    yield _csv_row("method", row["method"], measure, name, {"mean": measures[measure]})
    for row in summary["metrics"]:
        yield _csv_row("metric", row["metric"], "grade", "all", row["grade"])
        yield _csv_row("metric", row["metric"], "resolution", "all", {"mean": row["resolution"]})
        for name, value in row["by_kind"].items():
            yield _csv_row("metric", row["metric"], f"grade of {name}", "all", {"mean": value})
        for name, bias in row["bias"].items():
            yield _csv_row("metric", row["metric"], f"bias to {name}", "all", bias)
        for name, value in row["by_mechanism"].items():
            yield _csv_row("metric", row["metric"], "grade", name, {"mean": value})


def _csv_row(kind: str, name: str, measure: str, mechanism: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {
        column: estimate.get(key) for column, key in (("value", "mean"), ("low", "low"), ("high", "high"), ("n", "n"))
    }
    return {"kind": kind, "name": name, "measure": measure, "mechanism": mechanism, **numbers}


def _cell(text: str) -> dict[str, Any]:
    """Return a cell and its color: its number in [0, 1] as a percentage, or None."""
    try:
        value = float(text)
    except ValueError:
        return {"text": text, "shade": None}
    return {"text": text, "shade": round(100 * min(max(value, 0.0), 1.0))}
