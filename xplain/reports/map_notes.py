"""Name the maps of other programs that an evaluation could not use, and what masks say about classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplain.core.files import printable

MAX_NAMES = 10  # images named for one reason


def unusable_map_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each reason why maps cannot be used, with the images concerned."""
    notes = []
    for method, reasons in summary.get("unusable_maps", {}).items():
        for reason, keys in reasons.items():
            names = ", ".join(printable(key) for key in keys[:MAX_NAMES])
            more = f" and {len(keys) - MAX_NAMES} more" if len(keys) > MAX_NAMES else ""
            notes.append(f"{method}, {reason}: {names}{more}.")
    return notes


def annotation_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what the metrics assume about masks, without a final period."""
    metrics = summary["run"]["metrics"]
    return [f"{label}: {metric['annotation']}" for label, metric in metrics.items() if "annotation" in metric]
