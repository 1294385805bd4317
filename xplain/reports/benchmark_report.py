"""The Markdown report of ``xplain bench``: the machine, and for each model its peak rates and a table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xplain.reports.published import format_published
from xplain.reports.published_speeds import speed_notes
from xplain.reports.tables import format_number, markdown_table

COLUMNS = (
    "method", "images", "implementation", "images/s", "gradient rows/s", "forward rows/s", "efficiency",
    "forward passes", "backward passes", "batch size", "peak memory (MiB)", "xplain speedup",
)  # fmt: skip
RATE_KEYS = ("images_per_second", "gradient_rows_per_second", "forward_rows_per_second", "efficiency")
COUNT_KEYS = ("forwards", "backwards", "rows_a_call", "peak_memory_mib")
AGREEMENT = "agreement_with_fp32"
ENGINE_SPEEDUP = "openvino_is_faster_by"
CEILINGS = {"prepared": "optimized by xplain", "plain": "unmodified", "openvino": "compiled by OpenVINO"}
Record = Mapping[str, Any]


def benchmark_table(records: Sequence[Record]) -> str:
    """Return the report of benchmark records: one line for the machine, then a section per model.

    records: as ``xplain bench --json`` prints them. Each record of kind "ceiling" starts the section of its model; one of kind "published"
    is about a paper's speeds.
    """
    with_agreement = any(record.get(AGREEMENT) for record in records)
    sections: list[str] = []
    for index, record in enumerate(records):
        if record["kind"] == "environment":
            sections.append(_describe_machine(record))
        elif record["kind"] == "ceiling":
            sections.append(_describe_ceiling(record))
            sections.append(_runs_table(_runs_after(records, index), with_agreement))
        elif record["kind"] == "published":
            sections.append(speed_notes(record))
    return "\n\n".join(sections) + "\n"


def _runs_after(records: Sequence[Record], index: int) -> list[Record]:
    """Return the runs that follow the ceiling at ``index``, up to the next ceiling."""
    runs = []
    for record in records[index + 1 :]:
        if record["kind"] != "run":
            break
        runs.append(record)
    return runs


def _describe_machine(record: Record) -> str:
    chip = record["gpu"] or f"{record['cpu']}, {record['cores']} cores"
    return (
        f"{chip}; {record['threads']} threads, {record['precision']}; "
        f"median (minimum to maximum) of {record['repeats']} rounds"
    )


def _describe_ceiling(record: Record) -> str:
    """Return the rates of the bare model at its fastest batch size, with and without xplain's optimizations."""
    height, width = record["size"]
    weights = "untrained" if record["model"]["weights"]["source"] == "random" else "trained"
    name = record["model"]["name"]
    lines = [f"{name} ({weights}, {height} x {width}), throughput of the bare model at its fastest batch size:"]
    for key, title in CEILINGS.items():
        if key not in record:
            continue
        rates = [
            f"{rate['rows_per_second']:.3g} {kind.removesuffix('s')} rows/s at batch size {rate['rows']}"
            for kind, rate in record[key].items()
        ]
        lines.append(f"* {title}: {', '.join(rates)}")
    return "\n".join(lines)


def _runs_table(runs: Sequence[Record], with_agreement: bool) -> str:
    header, rows = list(COLUMNS), [_run_cells(run) for run in runs]
    if with_agreement:
        header.append("agreement with fp32")
        for run, cells in zip(runs, rows, strict=True):
            cells.append(_agreement_cell(run))
    if any(run.get(ENGINE_SPEEDUP) for run in runs):
        header.append("speedup over PyTorch")
        for run, cells in zip(runs, rows, strict=True):
            cells.append(_format_spread(run.get(ENGINE_SPEEDUP)))
    if any("published" in run for run in runs):
        place = header.index("images/s") + 1
        header.insert(place, "published images/s")
        for run, cells in zip(runs, rows, strict=True):
            cells.insert(place, format_published(run["published"]))
    return markdown_table(header, rows)


def _run_cells(run: Record) -> list[str]:
    """Return the table cells of a run. The cells of a failed run contain its error instead of numbers."""
    program = run["program"]
    if run["rows_asked"]:
        program += f", batch size {run['rows_asked']}"
    cells = [run["label"], str(run["images"])]
    if run["error"]:
        return [*cells, f"{program}: {run['error']}", *[""] * (len(COLUMNS) - 3)]
    rates = [_format_spread(run[key]) for key in RATE_KEYS]
    counts = [format_number(run[key], ".0f") for key in COUNT_KEYS]
    return [*cells, program, *rates, *counts, _format_spread(run["xplain_is_faster_by"])]


def _agreement_cell(run: Record) -> str:
    agreement = run.get(AGREEMENT) or {}
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in agreement.items())


def _format_spread(value: Mapping[str, float] | None) -> str:
    if value is None:
        return ""
    return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
