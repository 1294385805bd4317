"""A comparison's rows and columns, and the record of it that is written as ``compare.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.config import RenderOptions
from xplain.core.errors import Failure
from xplain.reports.agreement import MEASURES, agree, mean_agreement
from xplain.reports.render import Bytes

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one image: its record with scores, and the raw attribution (C, H, W)."""

    record: dict[str, Any]
    values: Floats


@dataclass(frozen=True, eq=False)
class Row:
    """An image as a model sees it, (H, W, 3), what the model says of it, and a cell a column; None where it failed."""

    record: dict[str, Any]
    image: Bytes
    cells: Sequence[Cell | None]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Columns by label, metrics by label with their descriptions, rows; models by name with the facts of their runs."""

    columns: tuple[str, ...]
    metrics: Mapping[str, dict[str, Any]]
    rows: Sequence[Row]
    failed: Sequence[Failure]
    look: RenderOptions
    models: Mapping[str, dict[str, Any]]

    def value(self, row: Row, column: int, metric: str) -> float | None:
        """A cell's score, None where it failed or is undefined."""
        cell = row.cells[column]
        return None if cell is None else cell.record["scores"][metric]["value"]

    def best(self, row: Row, metric: str) -> float | None:
        """The best score in a row; None where there are fewer than two."""
        values = [v for k in range(len(self.columns)) if (v := self.value(row, k, metric)) is not None]
        if len(values) < 2:
            return None
        return max(values) if self.metrics[metric]["better"] == "higher" else min(values)


def describe(comparison: Comparison, fingerprint: str, files: Sequence[str]) -> dict[str, Any]:
    """What ``compare.json`` holds: everything but the maps."""
    rows, agreements = [], []
    for row in comparison.rows:
        found = agree([None if cell is None else cell.values for cell in row.cells], comparison.look)
        agreements.append(found)
        cells = [None if cell is None else cell.record for cell in row.cells]
        rows.append(row.record | {"cells": cells, "agreement": {name: _plain(each) for name, each in found.items()}})
    return {
        "schema": SCHEMA,
        "kind": "images",
        "fingerprint": fingerprint,
        "columns": list(comparison.columns),
        "metrics": dict(comparison.metrics),
        "render": asdict(comparison.look),
        "models": dict(comparison.models),
        "rows": rows,
        "means": [_means(comparison, k) for k in range(len(comparison.columns))],
        "agreement": {
            name: {"what": MEASURES[name], "mean": _plain(mean), "n": count.tolist()}
            for name, (mean, count) in mean_agreement(agreements).items()
        },
        "failed": [{"input": each.name, "error": str(each.error)} for each in comparison.failed],
        "files": list(files),
    }


def _means(comparison: Comparison, column: int) -> dict[str, Any]:
    """A column's mean scores over the rows that have one, and seconds an image."""
    cells = [cell for row in comparison.rows if (cell := row.cells[column]) is not None]
    scores = {}
    for metric in comparison.metrics:
        values = [v for row in comparison.rows if (v := comparison.value(row, column, metric)) is not None]
        scores[metric] = {"mean": float(np.mean(values)) if values else None, "n": len(values)}
    seconds = float(np.mean([cell.record["cost"]["seconds"] for cell in cells])) if cells else None
    return {"column": comparison.columns[column], "scores": scores, "seconds": seconds, "n": len(cells)}


def _plain(values: Floats) -> list[list[float | None]]:
    """Rows of numbers rounded to six digits, None for NaN, which JSON cannot hold."""
    return [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in values]
