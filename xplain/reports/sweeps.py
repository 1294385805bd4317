"""Find the methods of a run that differ in one parameter, and describe them for the record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xplain.core.config import Choice
from xplain.core.errors import UsageError

MAX_NAME = 80  # characters of a metric in a file name


@dataclass(frozen=True, eq=False)
class MethodMean:
    """The mean of a method by a metric.

    label: ``NAME:key=value``. name: unique among all methods. group: what is different in methods that are not compared, such as the run.
    estimate: mean, low, high and n, with None for undefined numbers.
    """

    label: str
    name: str
    group: str
    estimate: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SweepCurve:
    """The means of one method over the values of a parameter. fixed: the other parameters, and the group; may be empty."""

    fixed: str
    values: Sequence[str]
    means: Sequence[MethodMean]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The curves of a method over one parameter."""

    method: str
    parameter: str
    curves: Sequence[SweepCurve]

    def describe(self) -> dict[str, Any]:
        """Return the sweep as records hold it; the means are those of the methods named."""
        curves = [
            {"fixed": curve.fixed, "values": list(curve.values), "methods": [mean.name for mean in curve.means]}
            for curve in self.curves
        ]
        return {"method": self.method, "parameter": self.parameter, "curves": curves}


def find_sweeps(means: Iterable[MethodMean]) -> list[Sweep]:
    """Return the sweeps among methods: at least two methods of one name and group whose labels differ in the value of one parameter.

    Values are in increasing order if they are numbers, else in the order of the methods.
    """
    found: dict[tuple[str, str], dict[str, dict[str, MethodMean]]] = {}
    for mean in means:
        choice = _parse_label(mean.label)
        if choice is None:
            continue
        for key, value in choice.params:
            fixed = ",".join(f"{other}={text}" for other, text in sorted(choice.params) if other != key)
            curve_name = " @ ".join(filter(None, (fixed, mean.group)))
            curve = found.setdefault((choice.name, key), {}).setdefault(curve_name, {})
            curve.setdefault(value, mean)
    sweeps = []
    for (method, parameter), curves in found.items():
        complete = [_make_curve(fixed, curve) for fixed, curve in curves.items() if len(curve) > 1]
        if complete:
            sweeps.append(Sweep(method, parameter, complete))
    return sweeps


def name_sweep_file(metric: str) -> str:
    """Return the name, without suffix, of the plots of a metric: ``sweep.deletion``."""
    name = re.sub(r"[^A-Za-z0-9_=,.+-]+", "_", metric)
    if len(name) > MAX_NAME or name != metric.replace(":", "_"):
        name = f"{name[:MAX_NAME]}-{hashlib.sha256(metric.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return f"sweep.{name}"


def _parse_label(label: str) -> Choice | None:
    """Return the method and the parameters of a label, or None if it is not the label of a method."""
    try:
        return Choice.parse(label)
    except UsageError:
        return None


def _make_curve(fixed: str, means: Mapping[str, MethodMean]) -> SweepCurve:
    numbers = parse_numbers(list(means))
    values = list(means)
    if numbers is not None:
        values = [value for _, value in sorted(zip(numbers, values, strict=True))]
    return SweepCurve(fixed, values, [means[value] for value in values])


def parse_numbers(values: Sequence[str]) -> list[float] | None:
    """Return the values as finite numbers, or None if one is not a number."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(abs(number) < float("inf") for number in numbers) else None


def list_sweeps(metrics: Iterable[str], means: Mapping[str, Sequence[MethodMean]]) -> list[dict[str, Any]]:
    """Return the sweeps as records hold them, one entry per metric with the name of its plot; means: by metric."""
    entries = []
    for metric in metrics:
        sweeps = find_sweeps(means[metric])
        if sweeps:
            entries.append(
                {
                    "metric": metric,
                    "file": f"{name_sweep_file(metric)}.png",
                    "sweeps": [sweep.describe() for sweep in sweeps],
                }
            )
    return entries


def collect_arm_means(arms: Iterable[Mapping[str, Any]]) -> dict[str, list[MethodMean]]:
    """Return the means of the methods of compared runs by metric. Methods of runs with different settings are not joined by a curve."""
    means: dict[str, list[MethodMean]] = {}
    for arm in arms:
        for metric, estimate in arm["means"].items():
            means.setdefault(metric, []).append(MethodMean(arm["label"], arm["name"], arm["group"], estimate))
    return means


def collect_means(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[MethodMean]]:
    """Return the means of the rows of a summary by metric."""
    means: dict[str, list[MethodMean]] = {}
    for row in rows:
        means.setdefault(row["metric"], []).append(MethodMean(row["method"], row["method"], "", row))
    return means
