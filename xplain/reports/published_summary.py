"""Summarize a run next to a paper's table: published values, settings that differ, and the agreement of the orders of methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xplain.core.run_store import check_run, read_run
from xplain.core.types import Interval
from xplain.reports.order_agreement import common_values, describe_order_agreement, estimate_order_agreement
from xplain.reports.published import Published, add_published
from xplain.reports.score_column import ScoreColumn
from xplain.reports.summary import RunAggregator, add_overlaps, summarize_aggregator


def summarize_with_published(
    folder: Path,
    published: Published,
    interval: Interval = "percentile",
    selected: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the summary of a run directory with a paper's values, as ``add_published`` does, and the agreement of the orders.

    Raises InputError if evaluate did not write the records.
    """
    description, records = read_run(folder)
    check_run(description, str(folder))
    aggregator = RunAggregator.of(description, records, selected)
    summary = summarize_aggregator(description, aggregator, interval)
    add_overlaps(summary, folder, aggregator)
    summary = add_published(summary, published)
    order = find_order_agreements(summary, aggregator.columns)
    return {**summary, "published": {**summary["published"], "order": order}}


def find_order_agreements(
    summary: Mapping[str, Any], columns: Mapping[tuple[str, str], ScoreColumn]
) -> list[dict[str, Any]]:
    """Return the agreement of the published with the measured order of methods, for each metric with at least four of them.

    The measured order is that of the means over the images on which all these methods are defined.
    """
    agreements = []
    for metric in summary["run"]["metrics"]:
        rows = [row for row in summary["rows"] if row["metric"] == metric and row["published"] is not None and row["n"]]
        values = common_values([_values_by_key(columns[row["method"], metric]) for row in rows])
        published = np.array([row["published"] for row in rows], dtype=np.float64)
        agreement = estimate_order_agreement(published, values)
        if agreement is not None:
            agreements.append(describe_order_agreement(metric, agreement))
    return agreements


def _values_by_key(column: ScoreColumn) -> dict[str, float]:
    return {key: column.values[index] for key, index in column.index.items()}
