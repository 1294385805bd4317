"""The files that report a run on known truth: ``summary.json``, ``summary.csv``, ``summary.md`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xplain.core.files import to_json, write_json, write_text
from xplain.known.registry import MECHANISMS
from xplain.reports.known_methods import SUMMARIZED
from xplain.reports.known_tables import make_tables
from xplain.reports.tables import csv_table, escape_cell, markdown_table
from xplain.reports.templates import render_page

CSV_COLUMNS = ("kind", "name", "measure", "mechanism", "value", "low", "high", "n")
UNSHADED = ("p (Holm)", "resolution", "silent")  # columns in which high values are not good
DEFINITION = "A planted mechanism is a network that is made to compute its score in a known way, so that it is known which pixels matter"


def write_known_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the reports into a run directory, each atomically. Raises InputError if a file cannot be written."""
    write_text(folder / "report.html", make_known_page(summary))
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.csv", csv_table(CSV_COLUMNS, _csv_rows(summary)))
    write_text(folder / "summary.md", known_table(summary))


def known_table(summary: Mapping[str, Any]) -> str:
    """Return the summary as Markdown: tables of methods and metrics, each with the meanings of its columns."""
    blocks = [f"{text}." for text in introduce(summary)]
    for table in make_tables(summary):
        blocks += [f"{table.title}:", markdown_table(table.header, table.rows)]
        if table.description:
            blocks.append(f"{table.description}.")
        if table.terms:
            blocks.append("\n".join(f"- {term}: {escape_cell(text)}" for term, text in table.terms.items()))
    return "\n\n".join([*blocks, *_list_refused(summary)]) + "\n"


def make_known_page(summary: Mapping[str, Any]) -> str:
    """Return ``report.html``: the same tables, with cells colored by their value."""
    return render_page(
        "known_truth.html",
        introduction=introduce(summary),
        tables=[(table, [list(map(_cell, table.header, row)) for row in table.rows]) for table in make_tables(summary)],
        notes=_list_refused(summary),
        provenance=to_json(summary["run"], indent=1),
    )


def introduce(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences about the mechanisms, the images and the seed, and what a planted mechanism is."""
    names, images = list(summary["mechanisms"]), summary["images"]
    image_count = f"{images} image{'s' * (images != 1)}"
    seed = f"seed {summary['run']['fingerprint']['seed']}"
    if len(names) > 1:
        location = summary["run"]["dataset"]["location"]
        units = "mechanisms, then images"
        facts = f"Known truth: {location}, {len(names)} mechanisms with {image_count} each"
    else:
        units = "images"
        facts = f"Known truth: known:{names[0]} with {image_count}"
    texts = [f"{facts}; {seed}; intervals: 95% bootstrap over {units}", DEFINITION]
    if len(names) == 1 and names[0] in MECHANISMS:
        text = f"The score of known:{names[0]}: {MECHANISMS[names[0]].summary}"
        texts.append(f"{text}; a1 and a2 are means of patches" if "a1" in text else text)
    return texts


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


def _cell(name: str, text: str) -> dict[str, Any]:
    """Return a cell and its color: its number in [0, 1] as a percentage, or None if it is no score. name: of the column."""
    try:
        value = float(text)
    except ValueError:
        return {"text": text, "shade": None}
    return {"text": text, "shade": None if name in UNSHADED else round(100 * min(max(value, 0.0), 1.0))}
