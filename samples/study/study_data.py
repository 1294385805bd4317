"""The values of the study, read from the tables that collect.py writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collect import COSTS, GRADES, IMAGES, ITEMS, Row, configured_labels, read_table

import xplain

PRIMARY = "difference:steps=28,baseline=mean"
BLUR = "difference:steps=28,baseline=blur"
INSERTION, DELETION = "insertion:steps=28", "deletion:steps=28"
CONTROLS = ("random", "sobel", "center")
LEAST_GRADE = 0.7  # metrics below this grade on known truth are shown, but do not rank methods
# A method that explains the probability has smaller values in these than one that explains the logit.
IN_UNITS_OF_SCORE = ("infidelity",)
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Network:
    """The values of a network: metric -> (methods, images), NaN where undefined or not evaluated, with the sign of the metric.

    signs: 1 if higher is better, -1 if lower is better, 0 if neither is. correct: whether the prediction is the label, per image.
    rows, seconds: mean forward plus backward rows and time (methods,) of an attribution. grades: of the metrics on known truth.
    """

    name: str
    methods: list[str]
    images: list[str]
    correct: Array
    values: dict[str, Array]
    signs: dict[str, int]
    rows: Array
    seconds: Array
    grades: dict[str, float]

    @property
    def title(self) -> str:
        """The name and the number of photographs."""
        return f"{self.name}, n = {len(self.images)}"

    def oriented(self, metric: str) -> Array:
        """Return the values (methods, images) with the sign changed if lower is better."""
        return self.values[metric] * self.signs[metric]

    def minus_random(self, metric: str) -> Array:
        """Return the oriented values minus those of the random map of the same image (methods, images)."""
        values = self.oriented(metric)
        return values - values[self.methods.index("random")]

    def ranks_methods(self, metric: str) -> bool:
        """Return whether a metric is comparable between methods, has a better direction, and no grade below LEAST_GRADE."""
        return self.is_comparable(metric) and self.grades.get(metric, 1) >= LEAST_GRADE

    def is_comparable(self, metric: str) -> bool:
        """Return whether a metric has a better direction, and the same units for all methods."""
        return self.signs[metric] != 0 and metric.partition(":")[0] not in IN_UNITS_OF_SCORE

    def ordered_metrics(self) -> list[str]:
        """Return the comparable metrics that were evaluated for all methods."""
        return [
            metric
            for metric, values in self.values.items()
            if self.is_comparable(metric) and np.isfinite(values).any(axis=1).all()
        ]

    def fills(self) -> dict[str, Array]:
        """Return the values (methods, images) of difference by the fill of removed pixels, as far as they were evaluated."""
        fills = {}
        if INSERTION in self.values and DELETION in self.values:
            fills["black"] = self.values[INSERTION] - self.values[DELETION]
        fills["mean"] = self.values[PRIMARY]
        if BLUR in self.values:
            fills["blur"] = self.values[BLUR]
        return fills


def metric_sign(metric: str) -> int:
    """Return 1 if higher values of the metric are better, -1 if lower ones are, and 0 if neither are."""
    better = {info.name: info.better for info in xplain.metrics()}[metric.partition(":")[0]]
    return {"higher": 1, "lower": -1}.get(better, 0)


def read_networks(folder: Path) -> list[Network]:
    """Read all networks of the study. Their images are those with a value of every method for the primary metric."""
    items, images, costs = (read_table(folder / name) for name in (ITEMS, IMAGES, COSTS))
    grades = {row["metric"]: float(row["grade"]) for row in read_table(folder / GRADES)}
    networks = sorted({row["network"] for row in items})
    return [
        _read_network(
            name, *([row for row in rows if row["network"] == name] for rows in (items, images, costs)), grades
        )
        for name in networks
    ]


def _read_network(
    name: str, items: list[Row], images: list[Row], costs: list[Row], grades: dict[str, float]
) -> Network:
    methods, metrics = (
        [label for label in configured_labels(key) if label in {row[key] for row in items}]
        for key in ("method", "metric")
    )
    cells = {(row["metric"], row["method"], row["image"]): row["value"] for row in items}
    complete = [row for row in images if all((PRIMARY, method, row["image"]) in cells for method in methods)]
    keys = [row["image"] for row in complete]
    values = {
        metric: np.array([[float(cells.get((metric, method, key)) or "nan") for key in keys] for method in methods])
        for metric in metrics
    }
    cost = {row["method"]: row for row in costs}
    return Network(
        name,
        methods,
        keys,
        np.array([row["label"] == row["predicted"] for row in complete]),
        values,
        {metric: metric_sign(metric) for metric in metrics},
        np.array([float(cost[method]["rows"]) for method in methods]),
        np.array([float(cost[method]["seconds"]) for method in methods]),
        grades,
    )
