"""A comparison of methods on images, and its record ``compare.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import Failure
from xplain.core.options import RenderOptions
from xplain.core.stability import UNSTABLE
from xplain.reports.agreement import MEASURES, compute_agreement, mean_agreement
from xplain.reports.render import Pixels

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one image. record: with scores. values: the raw attribution (C, H, W)."""

    record: dict[str, Any]
    values: Floats


@dataclass(frozen=True, eq=False)
class Row:
    """One target of an image for one model.

    record: the image, the model, its prediction and the target.
    image: (H, W, 3), the model's input.
    cells: one per column; None if the method failed.
    """

    record: dict[str, Any]
    image: Pixels
    cells: Sequence[Cell | None]

    @property
    def maps(self) -> list[Floats | None]:
        """Attributions of the cells."""
        return [None if cell is None else cell.values for cell in self.cells]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on images, with scores.

    columns: labels of the methods.
    metrics: descriptions by label.
    failed: the inputs and cells that failed.
    models: by name, the settings that their runs share.
    """

    columns: tuple[str, ...]
    metrics: Mapping[str, dict[str, Any]]
    rows: Sequence[Row]
    failed: Sequence[Failure]
    options: RenderOptions
    models: Mapping[str, dict[str, Any]]

    def score(self, row: Row, column: int, metric: str) -> float | None:
        """Return a cell's score, or None if the cell failed or the score is undefined."""
        cell = row.cells[column]
        return None if cell is None else cell.record["scores"][metric]["value"]

    def row_scores(self, row: Row, metric: str) -> list[float]:
        """Return the defined scores of a row."""
        scores = [self.score(row, column, metric) for column in range(len(self.columns))]
        return [score for score in scores if score is not None]

    def best_score(self, row: Row, metric: str) -> float | None:
        """Return the best score of a row, or None if fewer than two are defined or no direction is better."""
        scores, better = self.row_scores(row, metric), self.metrics[metric]["better"]
        if len(scores) < 2 or better == "neither":
            return None
        return max(scores) if better == "higher" else min(scores)

    def column_scores(self, column: int, metric: str) -> list[float]:
        """Return the defined scores of a column."""
        scores = [self.score(row, column, metric) for row in self.rows]
        return [score for score in scores if score is not None]


def describe_comparison(comparison: Comparison, fingerprint: str, files: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``compare.json``: all results except the maps.

    fingerprint: of the settings, models and images.
    files: paths of the comparison's files.
    """
    agreements = [compute_agreement(row.maps, comparison.options) for row in comparison.rows]
    rows = [_describe_row(row, agreement) for row, agreement in zip(comparison.rows, agreements, strict=True)]
    return {
        "schema": SCHEMA,
        "kind": "images",
        "fingerprint": fingerprint,
        "columns": list(comparison.columns),
        "metrics": dict(comparison.metrics),
        "render": asdict(comparison.options),
        "models": dict(comparison.models),
        "rows": rows,
        "means": [_describe_column(comparison, column) for column in range(len(comparison.columns))],
        "agreement": {
            name: {"what": MEASURES[name], "mean": _to_lists(mean), "n": count.tolist()}
            for name, (mean, count) in mean_agreement(agreements).items()
        },
        "failed": [{"input": failure.name, "error": str(failure.error)} for failure in comparison.failed],
        "files": list(files),
    }


def _describe_row(row: Row, agreement: Mapping[str, Floats]) -> dict[str, Any]:
    cells = [None if cell is None else cell.record for cell in row.cells]
    matrices = {name: _to_lists(matrix) for name, matrix in agreement.items()}
    return row.record | {"cells": cells, "agreement": matrices}


def _describe_column(comparison: Comparison, column: int) -> dict[str, Any]:
    """Return a column's mean scores over the rows that have one, and its mean seconds per image."""
    scores = {}
    for metric in comparison.metrics:
        values = comparison.column_scores(column, metric)
        scores[metric] = {"mean": float(np.mean(values)) if values else None, "n": len(values)}
    cells = [row.cells[column] for row in comparison.rows]
    seconds = [cell.record["cost"]["seconds"] for cell in cells if cell is not None]
    return {
        "column": comparison.columns[column],
        "scores": scores,
        "seconds": float(np.mean(seconds)) if seconds else None,
        "n": len(seconds),
        **_describe_stability(cells),
    }


def _describe_stability(cells: Sequence[Cell | None]) -> dict[str, Any]:
    """Return ``stability``, the mean figure of a column, their number and how many are below 0.5; {} if it was not measured."""
    entries = [cell.record["stability"] for cell in cells if cell is not None and "stability" in cell.record]
    if not entries:
        return {}
    figures = [entry["figure"] for entry in entries if entry["figure"] is not None]
    mean = float(np.mean(figures)) if figures else None
    return {"stability": {"mean": mean, "n": len(figures), "unstable": sum(figure < UNSTABLE for figure in figures)}}


def _to_lists(matrix: Floats) -> list[list[float | None]]:
    """Return rows of numbers rounded to six digits, with None for NaN, which JSON cannot hold."""
    return [[None if np.isnan(value) else round(float(value), 6) for value in row] for row in matrix]
