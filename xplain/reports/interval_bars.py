"""Coordinates of the bars that show means and intervals in the table of ``report.html``; ``evaluation.html`` writes the SVG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xplain.reports.control import find_control

WIDTH = 160  # of the SVG
MARGIN = 6


@dataclass(frozen=True)
class IntervalBar:
    """Horizontal coordinates of a mean, of the ends of its interval or None, and of the mean of the control or None."""

    mean: str
    low: str | None
    high: str | None
    control: str | None
    width: int = WIDTH


def make_interval_bars(summary: Mapping[str, Any], metric: str) -> dict[str, IntervalBar]:
    """Return the bar of each method that has a mean by a metric. All share a scale from the lowest to the highest value."""
    rows = [row for row in summary["rows"] if row["metric"] == metric and row["mean"] is not None]
    values = [row[key] for row in rows for key in ("mean", "low", "high") if row[key] is not None]
    if not values:
        return {}
    low, high = min(values), max(values)

    def place(value: float | None) -> str | None:
        if value is None:
            return None
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{MARGIN + share * (WIDTH - 2 * MARGIN):.1f}"

    control = next((row["mean"] for row in rows if row["method"] == find_control(summary["run"])), None)
    return {
        row["method"]: IntervalBar(place(row["mean"]) or "", place(row["low"]), place(row["high"]), place(control))
        for row in rows
    }
