"""Grade metrics: how often they rank a better map above a worse one, from what difference on, and what else they prefer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from xplain.known.ladder import BEST, CONTROLS, KINDS, PAIRS, RUNGS, rung_name, rung_pairs
from xplain.reports.cluster_intervals import describe_estimate, estimate_group_mean
from xplain.reports.statistics import holm_correction, sign_flip_test, smallest_p_value

CHANCE = 0.5
RELIABLE = 0.95  # grade from which a difference of quality is resolved
SIGNIFICANT = 0.05
LARGE_BIAS = 0.1
FEW = 6  # mechanisms from which they are the units of tests, instead of images
FAULT_KINDS = ("weights", "draws", "noise", "rounding")  # of methods, for metrics that run the method again
ALL_KINDS = (*KINDS, *FAULT_KINDS)
TIE = 1e-5  # of the larger value: smaller differences are ties, because the maps hold noise of 1e-6
ZERO = 1e-12  # difference that is a tie for values near 0
Values = Mapping[str, float | None]


class GradeResults:
    """The values of each metric on the maps of the ladder."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of an image, unless it has no values."""
        if record["values"]:
            self.records[record["metric"]][record["key"].split("/")[0]][record["key"]] = record

    def summarize(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a row per metric that was graded, with p values corrected for their number."""
        graded = [label for label in metrics if self.records[label]]
        rows = [_Grader(label, metrics[label]["better"], self.records[label]).summarize() for label in graded]
        corrected = holm_correction(np.array([math.nan if row["p"] is None else row["p"] for row in rows]))
        for row, p in zip(rows, corrected.tolist(), strict=True):
            row["p_holm"] = None if math.isnan(p) else p
            row["verdict"] = _judge(row, is_decidable=row.pop("least_p") * len(rows) < SIGNIFICANT)
        return rows


class _Grader:
    """One metric on the ladder. records: by mechanism and key."""

    def __init__(self, label: str, better: str, records: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        self.label, self.sign = label, -1.0 if better == "lower" else 1.0
        self.better = better
        self.records = {name: [records[name][key] for key in sorted(records[name])] for name in records}
        self.kinds = [kind for kind in ALL_KINDS if kind != "sign" or not self._ignores_sign()]

    def summarize(self) -> dict[str, Any]:
        """Return the row of the metric, without what depends on other metrics."""
        pairs = self._collect(lambda record: self._wins(record, self.kinds))
        grade = estimate_group_mean(pairs)
        gaps = sorted({round(worse - better, 6) for better, worse in rung_pairs()})
        by_gap = {gap: self._mean(partial(self._wins, kinds=self.kinds, gap=gap)) for gap in gaps}
        values = [
            value for records in self.records.values() for record in records for value in record["values"].values()
        ]
        units = self._units(pairs)
        p = float(sign_flip_test(units[:, None] - CHANCE)[0]) if len(units) else math.nan
        return {
            "metric": self.label,
            "better": self.better,
            "grade": describe_estimate(grade),
            "p": None if math.isnan(p) else p,
            "units": "mechanisms" if self._has_many(pairs) else "images",
            "least_p": smallest_p_value(len(units)),
            "by_kind": {
                kind: self._mean(partial(self._wins, kinds=[kind])) if kind in self.kinds else None
                for kind in ALL_KINDS
            },
            "by_gap": {f"{gap:g}": value for gap, value in by_gap.items()},
            "resolution": _find_resolution(by_gap),
            "controls": {name: self._mean(partial(self._compare, first=BEST, second=name)) for name in CONTROLS},
            "bias": {name: self._measure_bias(name) for name in PAIRS},
            "by_mechanism": {
                name: _mean([win for record in records for win in self._wins(record, self.kinds)])
                for name, records in self.records.items()
            },
            "maps": len(values),
            "undefined": sum(value is None for value in values),
        }

    def _ignores_sign(self) -> bool:
        """Return whether the metric has the same value for all maps that differ in signs only."""
        names = [rung_name("sign", share) for share in RUNGS]
        rows = [record["values"] for records in self.records.values() for record in records]
        return all(_is_tie(values[BEST], values.get(name)) for values in rows for name in names)

    def _wins(self, record: Mapping[str, Any], kinds: list[str], gap: float | None = None) -> list[float]:
        """Return 1, ½ or 0 for each pair of rungs: whether the better map has the better value. gap: of the pairs, or None for all."""
        wins = []
        for kind in kinds:
            for better, worse in rung_pairs():
                if gap is not None and abs(worse - better - gap) > 1e-6:
                    continue
                if kind == "blur" and "blur_auroc" in record and not _falls(record["blur_auroc"], better, worse):
                    continue
                wins += self._compare(record, rung_name(kind, better), rung_name(kind, worse))
        return wins

    def _compare(self, record: Mapping[str, Any], first: str, second: str) -> list[float]:
        """Return [1], [½] or [0]: whether the first map has the better value; [] if a value is undefined."""
        values: Values = record["values"]
        a, b = values.get(first), values.get(second)
        if a is None or b is None:
            return []
        if _is_tie(a, b):
            return [CHANCE]
        return [float(self.sign * (a - b) > 0)]

    def _measure_bias(self, name: str) -> dict[str, Any]:
        """Return P(the first map of the pair has the better value) - ½, with its interval."""
        first, second = PAIRS[name]
        groups = self._collect(lambda record: self._compare(record, first, second))
        estimate = describe_estimate(estimate_group_mean(groups))
        bounds = {key: estimate[key] for key in ("mean", "low", "high")}
        moved = {key: None if value is None else value - CHANCE for key, value in bounds.items()}
        return {**moved, "n": sum(map(len, groups)), "prefers": f"{first} to {second}"}

    def _collect(self, measure: Callable[[Mapping[str, Any]], list[float]]) -> list[list[float]]:
        """Return the means of the images of each mechanism, without images that have no value."""
        groups = []
        for records in self.records.values():
            means = [_mean(measure(record)) for record in records]
            groups.append([value for value in means if value is not None])
        return [group for group in groups if group]

    def _mean(self, measure: Callable[[Mapping[str, Any]], list[float]]) -> float | None:
        """Return the mean over mechanisms of the mean over images."""
        return _mean([math.fsum(group) / len(group) for group in self._collect(measure)])

    def _has_many(self, groups: list[list[float]]) -> bool:
        return len(groups) >= FEW

    def _units(self, groups: list[list[float]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the values that are exchanged in the test: means of mechanisms, or images if there are few mechanisms."""
        if self._has_many(groups):
            return np.array([math.fsum(group) / len(group) for group in groups])
        return np.array([value for group in groups for value in group])


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _is_tie(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) <= max(TIE * max(abs(first), abs(second)), ZERO)


def _falls(aurocs: list[float], better: float, worse: float) -> bool:
    """Return whether the AUROC of the blurred map falls between two rungs."""
    return aurocs[RUNGS.index(worse)] < aurocs[RUNGS.index(better)]


def _find_resolution(by_gap: Mapping[float, float | None]) -> float | None:
    """Return the least gap from which on all grades are at least RELIABLE, or None."""
    resolution = None
    for gap in sorted(by_gap, reverse=True):
        grade = by_gap[gap]
        if grade is None or grade < RELIABLE:
            break
        resolution = gap
    return resolution


def _judge(row: Mapping[str, Any], *, is_decidable: bool) -> str:
    """Return what the grade says about a metric. is_decidable: the corrected p value of a perfect metric would be significant."""
    grade = row["grade"]["mean"]
    if grade is None:
        return "undefined"
    if not is_decidable:
        return f"too few {row['units']} to decide"
    if row["p_holm"] is None or row["p_holm"] >= SIGNIFICANT:
        return "not better than chance"
    if grade < CHANCE:
        return "prefers worse maps"
    large = [
        f"prefers {bias['prefers']}"
        if bias["mean"] > 0
        else f"prefers {' to '.join(reversed(bias['prefers'].split(' to ')))}"
        for bias in row["bias"].values()
        if bias["low"] is not None and abs(bias["mean"]) >= LARGE_BIAS and not bias["low"] <= 0 <= bias["high"]
    ]
    return "; ".join(["prefers better maps", *large])
