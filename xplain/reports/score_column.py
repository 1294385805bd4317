"""The scores of a method by a metric, collected record by record."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xplain.core.array_store import Floats
from xplain.core.errors import InputError

T = TypeVar("T")


def validated(add: Callable[[T, Mapping[str, Any]], None]) -> Callable[[T, Mapping[str, Any]], None]:
    """Decorate a method that reads a record, so that it raises InputError for an invalid one."""

    @wraps(add)
    def checked(self: T, record: Mapping[str, Any]) -> None:
        try:
            add(self, record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"the record of {record['key']!r} is invalid ({reason})", "delete its line and run evaluate again"
            ) from None

    return checked


@dataclass
class ScoreColumn:
    """The results of one method by one metric, in packed arrays: a hundred million numbers take a gigabyte."""

    index: dict[str, int] = field(default_factory=dict)  # of an item's value, by key
    values: array[float] = field(default_factory=lambda: array("d"))  # NaN if undefined
    curves: array[float] = field(default_factory=lambda: array("d"))  # one after the other
    curve_items: array[int] = field(default_factory=lambda: array("q"))  # indices of the items that have a curve
    undefined: Counter[str] = field(default_factory=Counter)
    undefined_images: Counter[str] = field(default_factory=Counter)  # images that values, which are means, exclude
    chances: dict[str, float] = field(default_factory=dict)  # expected values of a random map, by key, if known
    forwards: int = 0
    backwards: int = 0
    missed_tolerance: int = 0  # items for which steps=auto or samples=auto reached its maximum first

    @validated
    def add(self, record: Mapping[str, Any]) -> None:
        """Add the result of an item."""
        index = self.index[record["key"]] = len(self.values)
        self.values.append(math.nan if record["value"] is None else record["value"])
        if not isinstance(record["undefined"], str | None):
            raise TypeError("undefined must be a string")
        if record["undefined"]:
            self.undefined[record["undefined"]] += 1
        for reason, count in record.get("undefined_images", {}).items():
            self.undefined_images[reason] += count
        if "chance" in record:
            self.chances[record["key"]] = float(record["chance"])
        if record["curve"] is not None:
            self._add_curve(index, record["curve"])
        self.forwards += record["cost"]["forwards"]
        self.backwards += record["cost"]["backwards"]
        self.missed_tolerance += record["cost"].get("tolerance_reached") is False

    def _add_curve(self, index: int, curve: Sequence[float]) -> None:
        self.curve_items.append(index)
        self.curves.extend(curve)
        if len(curve) < 2 or len(self.curves) % len(self.curve_items):
            raise ValueError("the curve has a different length than in other records")

    def values_of(self, keys: Iterable[str]) -> Floats:
        """Return the values of the items with the given keys."""
        return np.frombuffer(self.values)[[self.index[key] for key in keys]]

    def mean_chance(self) -> dict[str, float]:
        """Return ``chance``, the mean expected value of a random map for the items of which it is known; {} if there are none."""
        if not self.chances:
            return {}
        return {"chance": math.fsum(self.chances.values()) / len(self.chances)}

    def sorted_curves(self) -> Floats | None:
        """Return the curves (items that have one, points) in the order of the items' names, or None if there are none."""
        if not self.curve_items:
            return None
        curves: Floats = np.frombuffer(self.curves).reshape(len(self.curve_items), -1)
        return curves[self._curve_order()]

    def _curve_order(self) -> NDArray[np.int64]:
        """Return the indices of the curves in the order of the items' names."""
        names = np.array(list(self.index))
        return names[np.frombuffer(self.curve_items, dtype=np.int64)].argsort(kind="stable")

    def mean_curve(self) -> list[float] | None:
        """Return the mean over the items that have a curve, summed in the order of their names; None if there are none."""
        if not self.curve_items:
            return None
        curves: Floats = np.frombuffer(self.curves).reshape(len(self.curve_items), -1)
        return _mean_rows(curves, self._curve_order()).round(6).tolist()


def _mean_rows(rows: Floats, order: NDArray[np.int64], chunk_size: int = 4096) -> Floats:
    """Return the mean row, summed in order and chunk by chunk."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(order), chunk_size):
        total += rows[order[start : start + chunk_size]].sum(axis=0)
    return total / len(order)
