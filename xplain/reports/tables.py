"""Markdown and CSV tables, and the formats of the numbers in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xplain.core.files import printable


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table without a final newline. All cells are escaped."""
    rule = "|---" * len(header) + "|"
    return "\n".join([_markdown_row(header), rule, *map(_markdown_row, rows)])


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(escape_cell, cells)) + " |"


def escape_cell(text: str) -> str:
    """Return text that stays inside its Markdown cell: control characters and ``|`` are escaped."""
    return printable(text).replace("|", "\\|")


def csv_table(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return comma-separated rows under a header; None becomes an empty cell.

    rows: values by column name. Raises ValueError for a name that is not in ``header``.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def format_number(value: float | None, spec: str = ".4f") -> str:
    """Return the number in the format ``spec``, or an empty string for None."""
    return "" if value is None else format(value, spec)


def format_interval(estimate: Mapping[str, Any], spec: str = ".4f") -> str:
    """Return ``low to high`` of an estimate, or an empty string if it has no interval."""
    if estimate["low"] is None:
        return ""
    return f"{estimate['low']:{spec}} to {estimate['high']:{spec}}"


ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


def has_chance(summary: Mapping[str, Any]) -> bool:
    """Return whether a metric of a summary states the expected value of a random map."""
    return any(metric.get("has_chance") for metric in summary["run"]["metrics"].values())


def with_arrow(label: str, metric: Mapping[str, Any]) -> str:
    """Return the label of a metric with an arrow in the direction of better values; without one if neither direction is better."""
    return label + ARROWS[metric["better"]]
