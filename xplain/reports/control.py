"""The random control of a run: its label, and whether a method is better or worse than it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

CONTROL = "random"  # included in every evaluation; a useful method must outperform it


def find_control(description: Mapping[str, Any]) -> str | None:
    """Return the label of the control in the description of a run, or None if it has none."""
    return next((label for label, entry in description["methods"].items() if entry.get("method") == CONTROL), None)


def compare_with_control(
    row: Mapping[str, Any], metric: Mapping[str, Any]
) -> Literal["better", "not better", "worse"] | None:
    """Return whether a method is better or worse than the control: the side of zero of the paired difference's interval.

    It is ``not better`` if the interval contains zero.

    row: of a summary. metric: its description. Returns None for the control, without an interval, and if no direction is better.
    """
    difference = row.get("control")
    if not difference or difference["low"] is None or metric["better"] == "neither":
        return None
    is_higher = metric["better"] == "higher"
    if difference["low"] > 0:
        return "better" if is_higher else "worse"
    if difference["high"] < 0:
        return "worse" if is_higher else "better"
    return "not better"
