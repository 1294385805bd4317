"""The random control of a run: its label, and whether a method is better than it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTROL = "random"  # included in every evaluation; a useful method must outperform it


def find_control(description: Mapping[str, Any]) -> str | None:
    """Return the label of the control in the description of a run, or None if it has none."""
    return next((label for label, entry in description["methods"].items() if entry.get("method") == CONTROL), None)


def beats_control(row: Mapping[str, Any], metric: Mapping[str, Any]) -> bool | None:
    """Return whether a method is better than the control: the interval of the paired difference lies on the better side of zero.

    row: of a summary. metric: its description. Returns None for the control, without an interval, and if no direction is better.
    """
    difference = row.get("control")
    if not difference or difference["low"] is None or metric["better"] == "neither":
        return None
    return bool(difference["low"] > 0 if metric["better"] == "higher" else difference["high"] < 0)
