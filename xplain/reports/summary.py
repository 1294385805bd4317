"""From the records of a run to its summary: means with intervals, paired differences, mean curves, the model's top-1.

Records are read one after the other and come in any order: everything is computed in the order of the items' names, so that a run
that was interrupted, sharded or spread over ranks has the summary of one that was not. No seconds are in it, for the same reason.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from xplain.core.array_store import Floats
from xplain.core.errors import InputError
from xplain.core.run_store import check_run, read_run, settings_digest
from xplain.core.types import Interval
from xplain.reports.accuracy_check import Confusions, accuracy_warnings
from xplain.reports.statistics import BOOTSTRAP_RESAMPLES, LEVEL, Estimate, estimate, paired_difference

T = TypeVar("T")


def taken_up(take: Callable[[T, Mapping[str, Any]], None]) -> Callable[[T, Mapping[str, Any]], None]:
    """The same for records that may be damaged: raises InputError for one that evaluate does not write."""

    @wraps(take)
    def checked(self: T, record: Mapping[str, Any]) -> None:
        try:
            take(self, record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise InputError(f"the record of {record['key']!r} is damaged ({why})", "delete its line") from None

    return checked


@dataclass
class Column:
    """The results of one method by one metric, packed: a hundred million numbers fit into a gigabyte."""

    at: dict[str, int] = field(default_factory=dict)  # place by item
    values: array[float] = field(default_factory=lambda: array("d"))  # NaN where undefined
    curves: array[float] = field(default_factory=lambda: array("d"))
    curved: array[int] = field(default_factory=lambda: array("q"))  # places that have a curve
    undefined: Counter[str] = field(default_factory=Counter)
    forwards: int = 0
    backwards: int = 0

    @taken_up
    def add(self, record: Mapping[str, Any]) -> None:
        """Take up a record."""
        place = self.at[record["key"]] = len(self.values)
        self.values.append(math.nan if record["value"] is None else record["value"])
        if not isinstance(record["undefined"], str | None):
            raise TypeError("its reason is no text")
        if record["undefined"]:
            self.undefined[record["undefined"]] += 1
        if record["curve"] is not None:
            self.curved.append(place)
            self.curves.extend(record["curve"])
            if len(record["curve"]) < 2 or len(self.curves) % len(self.curved):
                raise ValueError("its curve has another length")
        self.forwards += record["cost"]["forwards"]
        self.backwards += record["cost"]["backwards"]

    def ordered(self, keys: Iterable[str]) -> Floats:
        """The values of these items."""
        return np.frombuffer(self.values)[[self.at[key] for key in keys]]

    def mean_curve(self) -> list[float] | None:
        """The mean over the items that have one, summed in the order of their names."""
        if not self.curved:
            return None
        names = np.array(list(self.at))
        order = names[np.frombuffer(self.curved, dtype=np.int64)].argsort(kind="stable")
        curves: Floats = np.frombuffer(self.curves).reshape(len(self.curved), -1)
        return _mean_rows(curves, order).round(6).tolist()


def _mean_rows(rows: Floats, order: NDArray[np.int64], chunk: int = 4096) -> Floats:
    """The mean row, added up in order, a chunk at a time."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(order), chunk):
        total += rows[order[start : start + chunk]].sum(axis=0)
    return total / len(order)


@dataclass
class Tally:
    """What a run's records come to: a column for each method and metric, and what is known of each image."""

    columns: dict[tuple[str, str], Column]
    evaluated: int = 0
    halves: tuple[Confusions, Confusions] = field(
        default_factory=lambda: (Counter(), Counter())
    )  # by a digest of the name
    failed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, description: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Tally:
        """Read all records. Those of methods and metrics whose settings or definitions have changed since are passed over."""
        pairs = [(method, metric) for metric in description["metrics"] for method in description["methods"]]
        marks = {settings_digest(description["methods"][a], description["metrics"][b]): (a, b) for a, b in pairs}
        tally = cls({pair: Column() for pair in pairs})
        done = set()
        for record in records:
            if record["mark"] == "failed":
                tally.failed.add(record["key"])
            elif record["mark"] == "item":
                tally.see(record)
                done.add(record["key"])
            elif pair := marks.get(record["mark"]):
                tally.columns[pair].add(record)
        tally.failed -= done  # it could be read later
        return tally

    @taken_up
    def see(self, record: Mapping[str, Any]) -> None:
        """Take up what is known of an image."""
        self.evaluated += 1
        if record["label"] is not None:
            half = self.halves[crc32(record["key"].encode("utf-8", "surrogateescape")) % 2]
            half[record["label"], record["predicted"]] += 1

    @property
    def labelled(self) -> int:
        """Images whose class is known."""
        return sum(half.total() for half in self.halves)

    @property
    def right(self) -> int:
        """Those that the model takes for what they are."""
        return sum(count for half in self.halves for (label, predicted), count in half.items() if label == predicted)

    def warnings(self, description: Mapping[str, Any]) -> list[str]:
        """What makes the numbers doubtful."""
        published = description.get("accuracy") or {"top1": None, "source": ""}
        return accuracy_warnings(
            self.right, self.labelled, published["top1"], published["source"], description.get("classes"), self.halves
        )


def summarise_run(folder: Path, interval: Interval = "percentile") -> dict[str, Any]:
    """The summary of all records in a run directory. Raises InputError where they are not what evaluate writes."""
    description, records = read_run(folder)
    check_run(description, str(folder))
    return summarise(description, records, interval)


def summarise(
    description: Mapping[str, Any], records: Iterable[Mapping[str, Any]], interval: Interval = "percentile"
) -> dict[str, Any]:
    """Means with intervals for every method and metric, paired differences to the first method, and the model's top-1.

    A value is undefined where its record says why; undefined values are counted by reason and stay out of the means.
    """
    tally = Tally.of(description, records)
    first = next(iter(description["methods"]))
    return {
        "schema": description["schema"],
        "run": {key: value for key, value in description.items() if key != "schema"},
        "items": {
            "evaluated": tally.evaluated,
            "failed": len(tally.failed),
            "of": description["dataset"]["items"],
        },
        "top1": tally.right / tally.labelled if tally.labelled else None,
        "labelled": tally.labelled,
        "warnings": tally.warnings(description),
        "interval": {"kind": interval, "level": LEVEL, "draws": BOOTSTRAP_RESAMPLES},
        "rows": [
            _row(method, metric, column, None if method == first else tally.columns[first, metric], interval)
            for (method, metric), column in tally.columns.items()
        ],
    }


def _row(method: str, metric: str, column: Column, reference: Column | None, interval: Interval) -> dict[str, Any]:
    keys = sorted(column.at)
    values = column.ordered(keys)
    both = [key for key in keys if reference is not None and key in reference.at]
    difference = None
    if reference is not None and both:
        difference = paired_difference(column.ordered(both), reference.ordered(both), interval)
    return {
        "method": method,
        "metric": metric,
        **_plain(estimate(values, interval)),
        "undefined": dict(sorted(column.undefined.items())),
        "difference": None if difference is None else _plain(difference),
        "curve": column.mean_curve(),
        "forwards": column.forwards / len(keys) if keys else None,
        "backwards": column.backwards / len(keys) if keys else None,
    }


def _plain(found: Estimate) -> dict[str, Any]:
    """With None for NaN, which JSON cannot hold."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(found).items()
    }
