"""The records of ``xplain bench`` as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
COLUMNS = (
    "method", "images", "program", "images/s", "gradient rows/s", "forward rows/s", "of the ceiling",
    "forwards", "backwards", "rows a call", "peak MiB", "xplain is faster by",
)  # fmt: skip

AGREEMENT = "agreement_with_fp32"


def to_markdown(records: Sequence[Record]) -> str:
    """The machine in a line, and for each model its ceiling in lines and its runs in a table."""
    lines: list[str] = []
    agrees = any(record.get(AGREEMENT) for record in records)
    columns = (*COLUMNS, "against fp32") if agrees else COLUMNS
    for record in records:
        if record["kind"] == "environment":
            lines.append(_machine(record))
        elif record["kind"] == "ceiling":
            lines += ["", *_ceiling(record), "", _row(columns), _row(["---"] * len(columns))]
        else:
            lines.append(_row(_cells(record) + ([_agreement(record)] if agrees else [])))
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


def _cells(record: Record) -> list[str]:
    asked = record["rows_asked"]
    program = record["program"] + (f", {asked} rows a call" if asked else "")
    if record["error"]:
        return [record["label"], str(record["images"]), f"{program}: {record['error']}", *[""] * (len(COLUMNS) - 3)]
    return [
        record["label"], str(record["images"]), program, *(
            _spread(record[key]) for key in ("images_per_second", "gradient_rows_per_second", "forward_rows_per_second", "efficiency")
        ), *(_number(record[key]) for key in ("forwards", "backwards", "rows_a_call", "peak_memory_mib")),
        _spread(record["xplain_is_faster_by"]),
    ]  # fmt: skip


def _agreement(record: Record) -> str:
    found = record.get(AGREEMENT) or {}
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in found.items())


def _spread(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
