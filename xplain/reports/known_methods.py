"""Summarize how methods do on planted mechanisms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xplain.reports.cluster_intervals import describe_estimate, estimate_group_mean

HEADLINES = {
    "set": "auroc",
    "value": "shape",
    "parts": "order",
    "silence": "quiet",
}  # the measure of a kind of mechanism
SUMMARIZED = (
    "auroc",
    "auroc_signed",
    "auroc_absolute",
    "ap",
    "top",
    "sign",
    "value",
    "shape",
    "order",
    "evenness",
    "quiet",
    "silent",
)
Scores = dict[str, dict[str, dict[str, Any]]]  # measures by method, mechanism and key


class MethodResults:
    """The measures of each method, and the reasons why methods do not fit mechanisms."""

    def __init__(self) -> None:
        self.scores: dict[str, dict[str, dict[str, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
        self.refused: dict[str, dict[str, str]] = defaultdict(dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of an image."""
        mechanism = record["key"].split("/")[0]
        if "refused" in record:
            self.refused[record["method"]][mechanism] = record["refused"]
        else:
            self.scores[record["method"]][mechanism][record["key"]] = record["scores"]

    def summarize(self, methods: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return a row per method, in the order of ``methods``. kinds: of the mechanisms."""
        return [self._summarize(label, description, kinds) for label, description in methods.items()]

    def _summarize(self, label: str, method: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
        by_mechanism = {name: self.scores[label][name] for name in kinds if self.scores[label][name]}
        means = {name: _mean_measures(scores.values()) for name, scores in by_mechanism.items()}
        profile = {
            name: measures.get(HEADLINES[kinds[name]]) for name, measures in means.items()
        }  # None for slopes without values
        aurocs = {name: measures["auroc"] for name, measures in means.items() if "auroc" in measures}
        worst = min(aurocs, key=lambda name: aurocs[name]) if aurocs else None
        return {
            "method": label,
            "slopes": bool(method.get("slopes")),
            "score": method["score"],
            **{measure: _estimate(by_mechanism, measure) for measure in SUMMARIZED},
            "worst": None if worst is None else {"mechanism": worst, "auroc": aurocs[worst]},
            "profile": profile,
            "by_mechanism": means,
            "refused": {name: self.refused[label][name] for name in kinds if name in self.refused[label]},
        }


def _mean_measures(scores: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure that any of the images has."""
    values: dict[str, list[float]] = defaultdict(list)
    for entry in scores:
        for measure, value in entry.items():
            values[measure].append(float(value))
    return {measure: math.fsum(numbers) / len(numbers) for measure, numbers in values.items()}


def _estimate(by_mechanism: Mapping[str, Mapping[str, Mapping[str, Any]]], measure: str) -> dict[str, Any] | None:
    """Return the mean over mechanisms of a measure, or None if no mechanism has it."""
    groups: Sequence[list[float]] = [
        [float(scores[key][measure]) for key in sorted(scores) if measure in scores[key]]
        for scores in by_mechanism.values()
    ]
    groups = [group for group in groups if group]
    return describe_estimate(estimate_group_mean(groups)) if groups else None
