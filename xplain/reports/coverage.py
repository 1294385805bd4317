"""Which part of a data set a summary covers, in words for the table and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count_images(summary: Mapping[str, Any]) -> str:
    """Return ``12 images``, or ``6 of 12 images`` if results of some images are missing."""
    evaluated, total = summary["items"]["evaluated"], summary["items"]["of"]
    return f"{evaluated} images" if evaluated >= total else f"{evaluated} of {total} images"


def coverage_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return texts about trials that are missing, and about images of the run that the summary does not include."""
    notes = [
        f"{_finished_trials(summary, label)} of {metric['trials']} trials of {label}"
        for label, metric in summary["run"]["metrics"].items()
        if isinstance(metric.get("trials"), int) and _finished_trials(summary, label) < metric["trials"]
    ]
    if summary.get("unselected"):
        count = summary["unselected"]
        images = "1 more image in this run was" if count == 1 else f"{count} more images in this run were"
        notes.append(f"{images} not selected and not included")
    return notes


def undefined_image_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return texts about the images that the means of trials exclude, without a final period."""
    notes = []
    for row in summary["rows"]:
        if "undefined_images" in row:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in row["undefined_images"].items())
            notes.append(
                f"{row['metric']} of {row['method']} excludes test images without a score, over all trials: {reasons}"
            )
    return notes


def _finished_trials(summary: Mapping[str, Any], metric: str) -> int:
    """Return the number of trials that all methods have finished."""
    counts = [row["n"] + sum(row["undefined"].values()) for row in summary["rows"] if row["metric"] == metric]
    return min(counts, default=0)
