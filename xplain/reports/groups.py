"""Summaries of groups of images: of correctly and wrongly classified images, and of the images of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.types import Interval
from xplain.reports.statistics import Estimate, estimate_mean
from xplain.reports.tables import csv_table, format_interval, format_number, markdown_table

CLASS_COLUMNS = ("class", "name", "method", "metric", "mean", "std", "n", "undefined")
ValuesOf = Callable[[Sequence[str]], Floats]  # the values of items, NaN if undefined


@dataclass
class ItemGroups:
    """The group of each item, by key. classes: its class. correct: whether the model is right about it.

    Of images with several labels, the class is the explained one, and the model is right if the image has this label and the model finds
    it. Items without a label are in no group.
    """

    explains_labels: bool
    classes: dict[str, int] = field(default_factory=dict)
    correct: dict[str, bool] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of an item. Raises TypeError if a class is no index."""
        key, label, predicted = record["key"], record["label"], record["predicted"]
        for index in (label, predicted):
            if not isinstance(index, int | None):
                raise TypeError(f"{index!r} is not the index of a class")
        if "labels" not in record:
            if label is not None:
                self.classes[key], self.correct[key] = label, label == predicted
        elif record["labels"]:
            explained = label if self.explains_labels else predicted
            self.classes[key] = explained
            self.correct[key] = explained in record["labels"] and explained in record["decided"]

    def summarize_correctness(
        self, keys: Sequence[str], values_of: ValuesOf, interval: Interval
    ) -> list[dict[str, Any]]:
        """Return the estimates of correctly and of wrongly classified items, or [] without labels. keys: sorted, of items with values."""
        entries = []
        for correct in (True, False):
            members = [key for key in keys if self.correct.get(key) is correct]
            values = values_of(members) if members else np.empty(0)
            estimate = without_nan(asdict(estimate_mean(values, interval)))
            entries.append({"correct": correct, **estimate, "undefined": int(np.isnan(values).sum())})
        return entries if any(key in self.correct for key in keys) else []

    def summarize_classes(self, keys: Sequence[str], values_of: ValuesOf) -> list[dict[str, Any]]:
        """Return mean, standard deviation and number of the values of each class. keys: sorted, of items with values."""
        members: dict[int, list[str]] = {}
        for key in keys:
            if key in self.classes:
                members.setdefault(self.classes[key], []).append(key)
        entries = []
        for index in sorted(members):
            values = values_of(members[index])
            defined = values[~np.isnan(values)]
            entries.append(
                {
                    "class": index,
                    "mean": float(defined.mean()) if len(defined) else None,
                    "std": float(defined.std(ddof=1)) if len(defined) > 1 else None,
                    "n": len(defined),
                    "undefined": len(values) - len(defined),
                }
            )
        return entries


def estimate_class_mean(entries: Iterable[Mapping[str, Any]], interval: Interval) -> Estimate:
    """Estimate the mean over classes of their means; classes without a defined value are left out.

    entries: of one method and metric, as ``ItemGroups.summarize_classes`` returns them. The interval resamples classes.
    """
    means = [entry["mean"] for entry in entries if entry["mean"] is not None]
    return estimate_mean(np.array(means), interval)


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an estimate, with None for NaN and infinity, which JSON cannot hold."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in values.items()
    }


def group_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table by correctness and of the means over classes; no rows without labels."""
    interval = "95% CI"
    header = ["metric", "method", "mean if right", interval, "n right", "mean if wrong", interval, "n wrong"]
    header += ["mean of classes", interval, "classes"]
    rows = []
    for row in summary["rows"]:
        if row.get("by_correctness"):
            estimates = [*row["by_correctness"], row["class_mean"]]
            cells = chain.from_iterable(
                (format_number(estimate["mean"]), format_interval(estimate), str(estimate["n"]))
                for estimate in estimates
            )
            rows.append([row["metric"], row["method"], *cells])
    return header, rows


def group_table(summary: Mapping[str, Any]) -> str:
    """Return the table of groups as Markdown; "" without labels."""
    header, rows = group_rows(summary)
    return f"{markdown_table(header, rows)}\n" if rows else ""


def classes_csv(summary: Mapping[str, Any]) -> str:
    """Return the values by class, method and metric as CSV; "" without labels."""
    names = summary["run"].get("label_names") or {}
    rows = [
        {"name": names.get(str(entry["class"])), "method": row["method"], "metric": row["metric"], **entry}
        for row in summary["rows"]
        for entry in row.get("by_class", ())
    ]
    return csv_table(CLASS_COLUMNS, rows) if rows else ""
