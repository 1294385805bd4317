"""From a run's summary to what is printed and written: Markdown, CSV, JSON, the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xplain.core.files import printable, to_json, write_json, write_text
from xplain.reports.evaluation_page import make_page
from xplain.reports.published import about_published, published_number

COLUMNS = (
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
BENCHMARK_COLUMNS = (
    "method", "images", "program", "images/s", "gradient rows/s", "forward rows/s", "of the ceiling",
    "forwards", "backwards", "rows a call", "peak MiB", "xplain is faster by",
)  # fmt: skip
AGREEMENT = "agreement_with_fp32"
Record = Mapping[str, Any]


def columns(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """COLUMNS, and ``published`` where a paper's figures stand beside."""
    return (*COLUMNS, "published") if "published" in summary else COLUMNS


def flat_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The summary's rows with the summary's columns."""
    rows = []
    for row in summary["rows"]:
        difference = row["difference"] or {"mean": None, "low": None, "high": None}
        extra = {
            "undefined": sum(row["undefined"].values()),
            "difference": difference["mean"],
            "difference_low": difference["low"],
            "difference_high": difference["high"],
        }
        rows.append({key: {**row, **extra}[key] for key in columns(summary)})
    return rows


def to_csv(summary: Mapping[str, Any]) -> str:
    """Comma-separated rows under a header; empty where there is no number."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns(summary), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows(summary))
    return stream.getvalue()


def to_markdown(summary: Mapping[str, Any]) -> str:
    """A table with intervals, and what was evaluated."""
    run, items = summary["run"], summary["items"]
    first = next(iter(run["methods"]))
    beside = " published |" if "published" in summary else ""
    model = run["fingerprint"]["model"]  # None where no metric looks at single images
    lines = [
        (f"{items['evaluated']} images of " if model else "")
        + f"{_cell(run['dataset']['location'])}, "
        + (f"{model['name']}, " if model else "")
        + f"protocol {run.get('protocol') or 'xplain'}, target {run['fingerprint']['target']}"
        + ("" if summary["top1"] is None else f"; the model's top-1 here is {summary['top1']:.3f}")
        + (f"; {items['failed']} failed" if items["failed"] else ""),
        *(f"\n**Warning:** {text}." for text in summary["warnings"]),
        "",
        f"| metric | method | mean |{beside} {interval_name(summary)} | n | undefined | difference to {_cell(first)} |",
        "|---|---|---|---|---|---|---|" + ("---|" if beside else ""),
    ]
    for row in summary["rows"]:
        arrow = "↑" if run["metrics"][row["metric"]]["better"] == "higher" else "↓"
        undefined = ", ".join(f"{count} {reason}" for reason, count in row["undefined"].items()) or "0"
        lines.append(
            f"| {_cell(row['metric'])} {arrow} | {_cell(row['method'])} | {_number(row['mean'])} |"
            + (f" {published_number(row['published'])} |" if beside else "")
            + f" {_interval(row)} | {row['n']} | {undefined} | {_with_interval(row['difference'])} |"
        )
    for title, texts in about_published(summary).items():
        lines += ["", f"{title}:", *(f"- {text}" for text in texts)]
    for metric, each in run["metrics"].items():
        if "places" in each:
            lines += ["", *_curves(summary, metric), "", f"{metric} {each['note']}."]
    return "\n".join(lines) + "\n"


def _curves(summary: Mapping[str, Any], metric: str) -> list[str]:
    """A table of the mean curves of a metric that has few points."""
    places = summary["run"]["metrics"][metric]["places"]
    lines = [
        f"| {metric}, removed | " + " | ".join(f"{place:.4g} %" for place in (100 * each for each in places)) + " |",
        "|---" * (len(places) + 1) + "|",
    ]
    for row in summary["rows"]:
        if row["metric"] == metric and row["curve"]:
            lines.append(f"| {_cell(row['method'])} | " + " | ".join(map(_number, row["curve"])) + " |")
    return lines


def interval_name(summary: Mapping[str, Any]) -> str:
    """What heads the column of intervals."""
    kind = summary["interval"]["kind"]
    return f"{summary['interval']['level']:.0%} interval".replace("%", " %") + (" (BCa)" if kind == "bca" else "")


def _cell(text: str) -> str:
    """Text in a table: on one line, and no end of a cell."""
    return printable(text).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"


def _with_interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["mean"] is None:
        return ""
    return (
        f"{difference['mean']:+.4f} ({_interval(difference)})"
        if difference["low"] is not None
        else f"{difference['mean']:+.4f}"
    )


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """``summary.json``, ``summary.csv``, ``summary.md`` and ``report.html``, by rename."""
    provenance = to_json({key: value for key, value in summary["run"].items() if key != "metrics"}, indent=1)
    page = make_page(summary, sorted(folder.joinpath("gallery").glob("*.png")), provenance)
    write_text(folder / "report.html", page)
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.csv", to_csv(summary))
    write_text(folder / "summary.md", to_markdown(summary))


def benchmark_table(records: Sequence[Record]) -> str:
    """The machine in a line, and for each model its ceiling in lines and its runs in a table."""
    lines: list[str] = []
    agrees = any(record.get(AGREEMENT) for record in records)
    columns = (*BENCHMARK_COLUMNS, "against fp32") if agrees else BENCHMARK_COLUMNS
    for record in records:
        if record["kind"] == "environment":
            lines.append(_machine(record))
        elif record["kind"] == "ceiling":
            lines += ["", *_ceiling(record), "", _markdown_row(columns), _markdown_row(["---"] * len(columns))]
        else:
            lines.append(_markdown_row(_benchmark_cells(record) + ([_agreement(record)] if agrees else [])))
    return "\n".join(lines) + "\n"


def _machine(record: Record) -> str:
    chip = record["gpu"] or f"{record['cpu']}, {record['cores']} cores"
    return (
        f"{chip}; {record['threads']} threads, {record['precision']}; "
        f"medians of {record['repeats']} rounds (lowest to highest)"
    )


def _ceiling(record: Record) -> list[str]:
    height, width = record["size"]
    weights = "untrained" if record["model"]["weights"]["source"] == "random" else "trained"
    lines = [
        f"{record['model']['name']} ({weights}, {height} x {width}), rows a second of the bare model at its best batch size:"
    ]
    for which, words in (("prepared", "as xplain prepares it"), ("plain", "as it is")):
        rates = [
            f"{record[which][what]['rows_per_second']:.3g} {what} at {record[which][what]['rows']}"
            for what in record[which]
        ]
        lines.append(f"* {words}: {', '.join(rates)}")
    return lines


def _benchmark_cells(record: Record) -> list[str]:
    asked = record["rows_asked"]
    program = record["program"] + (f", {asked} rows a call" if asked else "")
    if record["error"]:
        return [
            record["label"],
            str(record["images"]),
            f"{program}: {record['error']}",
            *[""] * (len(BENCHMARK_COLUMNS) - 3),
        ]
    return [
        record["label"], str(record["images"]), program, *(
            _spread(record[key]) for key in ("images_per_second", "gradient_rows_per_second", "forward_rows_per_second", "efficiency")
        ), *(_whole_number(record[key]) for key in ("forwards", "backwards", "rows_a_call", "peak_memory_mib")),
        _spread(record["xplain_is_faster_by"]),
    ]  # fmt: skip


def _agreement(record: Record) -> str:
    found = record.get(AGREEMENT) or {}
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in found.items())


def _spread(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def _whole_number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
