"""Which images and metrics a summary covers, and whether the images are too few for intervals, in words for the table and the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from xplain.core.protocols import DEFAULT_PROTOCOL, get_protocol

MIN_VALUES = 10  # 95 % bootstrap intervals of n normal values contain the true mean in 80 % of cases for n = 4 and in 90 % for n = 8


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


def protocol_notes(run: Mapping[str, Any]) -> list[str]:
    """Return a text about the protocol of a run, or none if its metrics were chosen one by one."""
    protocol = run.get("protocol")
    if protocol is None and list(run["metrics"]) == list(get_protocol(DEFAULT_PROTOCOL).metrics):
        protocol = DEFAULT_PROTOCOL
    return [] if protocol is None else [f"protocol: {protocol}"]


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


def narrow_interval_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return a text if intervals of the rows are from fewer than MIN_VALUES values, without a final period."""
    metrics = summary["run"]["metrics"]
    counts: dict[str, set[int]] = {"images": set(), "trials": set()}
    for row in summary["rows"]:
        if row["low"] is not None and row["n"] < MIN_VALUES:
            counts["trials" if "scope" in metrics[row["metric"]] else "images"].add(row["n"])
    return [
        f"Intervals from fewer than {MIN_VALUES} {unit} (n = {_format_counts(values)}) are too narrow: "
        f"more than 5% of such 95% intervals miss the true mean. Use more {unit}"
        for unit, values in counts.items()
        if values
    ]


def _format_counts(counts: Collection[int]) -> str:
    """Return ``4``, or ``4 to 9`` for several counts."""
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def _finished_trials(summary: Mapping[str, Any], metric: str) -> int:
    """Return the number of trials that all methods have finished."""
    counts = [row["n"] + sum(row["undefined"].values()) for row in summary["rows"] if row["metric"] == metric]
    return min(counts, default=0)
