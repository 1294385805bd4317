"""Summarize the records of a run: means with intervals, paired differences, mean curves, and the model's top-1 accuracy.

Records are read one at a time and in any order. Everything is computed in the order of the items' names, so that an interrupted,
sharded or distributed run has the same summary as any other. For the same reason the summary holds no times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from xplain.core.config import EXTERNAL_MAPS
from xplain.core.option_values import parse_count
from xplain.core.run_store import check_run, read_run, settings_digest
from xplain.core.types import Interval
from xplain.reports.accuracy_check import Confusions, accuracy_warnings
from xplain.reports.control import compare_with_control, find_control
from xplain.reports.groups import ItemGroups, estimate_class_mean, without_nan
from xplain.reports.label_accuracy import LabelAccuracy
from xplain.reports.repeated_maps import compare_images, describe_repeats, is_stability
from xplain.reports.score_column import ScoreColumn, validated
from xplain.reports.statistics import (
    BOOTSTRAP_RESAMPLES,
    CONFIDENCE_LEVEL,
    Estimate,
    estimate_mean,
    paired_difference,
)
from xplain.reports.sweeps import collect_means, list_sweeps


def _empty_halves() -> tuple[Confusions, Confusions]:
    return Counter(), Counter()


@dataclass
class RunAggregator:
    """The results of a run: a column per method and metric, and the predictions on labeled images.

    halves: predictions in two halves of the images, split by a digest of the name.
    label_accuracy: predictions on images that can have several labels, which are not in ``halves``.
    groups: the class of each image, and whether the model is right about it.
    failed: keys of the images that could not be evaluated.
    selected: keys of the images to summarize, or None for all. unselected: number of evaluated images that are left out.
    unusable_maps: keys of the images whose external map cannot be used, by method and reason.
    """

    columns: dict[tuple[str, str], ScoreColumn]
    evaluated: int = 0
    halves: tuple[Confusions, Confusions] = field(default_factory=_empty_halves)
    label_accuracy: LabelAccuracy = field(default_factory=LabelAccuracy)
    groups: ItemGroups = field(default_factory=lambda: ItemGroups(explains_labels=False))
    failed: set[str] = field(default_factory=set)
    selected: Collection[str] | None = None
    unselected: int = 0
    unusable_maps: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        description: Mapping[str, Any],
        records: Iterable[Mapping[str, Any]],
        selected: Collection[str] | None = None,
    ) -> RunAggregator:
        """Read all records. Ignores records of methods and metrics whose settings or definitions have changed."""
        pairs = [(method, metric) for metric in description["metrics"] for method in description["methods"]]
        pair_by_mark = {
            settings_digest(description["methods"][method], description["metrics"][metric]): (method, metric)
            for method, metric in pairs
        }
        groups = ItemGroups(description["fingerprint"].get("target") == "label")
        aggregator = cls({pair: ScoreColumn() for pair in pairs}, groups=groups, selected=selected)
        evaluated = set()
        for record in records:
            key, mark = record["key"], record["mark"]
            if mark == "failed" and aggregator.is_selected(key):
                aggregator.failed.add(key)
            elif mark == "item" and aggregator.is_selected(key):
                aggregator.add_image(record)
                evaluated.add(key)
            elif mark == "item":
                aggregator.unselected += 1
            elif mark in pair_by_mark:
                pair = pair_by_mark[mark]
                if aggregator.is_requested(key, description["metrics"][pair[1]]):
                    aggregator.columns[pair].add(record)
                    if "error" in record:
                        reasons = aggregator.unusable_maps.setdefault(pair[0], {})
                        reasons.setdefault(record["undefined"], set()).add(key)
        aggregator.failed -= evaluated  # a later attempt succeeded
        return aggregator

    def is_selected(self, key: str) -> bool:
        """Return whether an image belongs into the summary."""
        return self.selected is None or key in self.selected

    def is_requested(self, key: str, metric: Mapping[str, Any]) -> bool:
        """Return whether the value of an image or of a trial belongs into the summary."""
        if "scope" not in metric:
            return self.is_selected(key)
        number, trials = parse_count(key.removeprefix("trial ")), metric.get("trials")
        return number is None or not isinstance(trials, int) or number <= trials

    @validated
    def add_image(self, record: Mapping[str, Any]) -> None:
        """Count an evaluated image, and its prediction if it has a label."""
        self.evaluated += 1
        self.groups.add(record)
        if "labels" in record:
            self.label_accuracy.add(record)
        elif record["label"] is not None:
            half = self.halves[crc32(record["key"].encode("utf-8", "surrogateescape")) % 2]
            half[record["label"], record["predicted"]] += 1

    @property
    def labeled(self) -> int:
        """The number of labeled images."""
        return len(self.label_accuracy.images) + sum(half.total() for half in self.halves)

    @property
    def correct(self) -> int:
        """The number of labeled images that the model classifies correctly."""
        return sum(count for half in self.halves for (label, predicted), count in half.items() if label == predicted)

    def summarize_accuracy(self) -> dict[str, float | None]:
        """Return ``top1``, and further measures if images can have several labels."""
        if self.label_accuracy.images:
            return self.label_accuracy.summarize()
        return {"top1": self.correct / self.labeled if self.labeled else None}

    def warnings(self, description: Mapping[str, Any]) -> list[str]:
        """Return warnings about missed tolerances, and about an implausible accuracy unless images can have several labels."""
        missed = self._warn_of_missed_tolerances()
        if self.label_accuracy.images:
            return missed
        published = description.get("accuracy") or {"top1": None, "source": ""}
        return missed + accuracy_warnings(
            self.correct,
            self.labeled,
            published["top1"],
            published["source"],
            description.get("classes"),
            self.halves,
        )

    def _warn_of_missed_tolerances(self) -> list[str]:
        """Return a warning per method of which steps=auto or samples=auto did not reach the tolerance for some images."""
        missed: dict[str, tuple[int, int]] = {}
        for (method, _), column in self.columns.items():
            missed[method] = max(missed.get(method, (0, 0)), (column.missed_tolerance, len(column.index)))
        return [
            f"{method} did not reach its tolerance for {count} of {total} images"
            for method, (count, total) in missed.items()
            if count
        ]


def summarize_run(
    folder: Path, interval: Interval = "percentile", selected: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the summary of the records in a run directory. Raises InputError if evaluate did not write them.

    selected: keys of the images to summarize; None for all.
    """
    description, records = read_run(folder)
    check_run(description, str(folder))
    aggregator = RunAggregator.of(description, records, selected)
    summary = summarize_aggregator(description, aggregator, interval)
    add_overlaps(summary, folder, aggregator)
    return summary


def add_overlaps(summary: dict[str, Any], folder: Path, aggregator: RunAggregator) -> None:
    """Add the overlap of the saved maps of different images to the rows of stability metrics."""
    if not folder.joinpath("maps").is_dir():
        return
    methods, overlaps = summary["run"]["methods"], dict[str, dict[str, Any] | None]()
    for row in summary["rows"]:
        label = row["method"]
        if "stability" not in row or methods[label]["method"] == EXTERNAL_MAPS:
            continue
        if label not in overlaps:
            keys = sorted(aggregator.columns[label, row["metric"]].index)
            overlaps[label] = compare_images(folder, methods[label], label, keys)
        if (overlap := overlaps[label]) is not None:
            row["stability"]["between_images"] = overlap


def summarize(
    description: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    interval: Interval = "percentile",
    selected: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return means with intervals per method and metric, paired differences to the first method and the control, and the model's accuracy.

    description: content of ``run.json``.
    records: of ``items/*.jsonl``.
    interval: kind of the bootstrap intervals.
    selected: keys of the images to summarize; None for all.

    Undefined values are counted by reason and excluded from the means. ``sweeps`` lists methods that differ in
    one parameter, if there are any.
    """
    return summarize_aggregator(description, RunAggregator.of(description, records, selected), interval)


def summarize_aggregator(
    description: Mapping[str, Any], aggregator: RunAggregator, interval: Interval = "percentile"
) -> dict[str, Any]:
    """Return what ``summarize`` returns, of records that were read."""
    first = next(iter(description["methods"]))
    control = find_control(description)
    rows = []
    for (method, metric), column in aggregator.columns.items():
        reference = None if method == first else aggregator.columns[first, metric]
        is_external = description["methods"][method]["method"] == EXTERNAL_MAPS  # their cost is unknown
        row = _summarize_column(method, metric, column, reference, interval, is_external=is_external)
        if control is not None and method != control:
            row["control"] = _subtract_control(aggregator, row, control, first, interval)
            row["verdict"] = compare_with_control(row, description["metrics"][metric])
        described = description["metrics"][metric]
        curves = column.sorted_curves() if is_stability(described) else None
        row |= describe_repeats(described, column.values_of(sorted(column.index)), curves)
        rows.append(row | _summarize_groups(aggregator.groups, column, interval))
    sweeps = list_sweeps(description["metrics"], collect_means(rows))
    return {
        "schema": description["schema"],
        "run": {key: value for key, value in description.items() if key != "schema"},
        "items": {
            "evaluated": aggregator.evaluated,
            "failed": len(aggregator.failed),
            "of": description["dataset"]["items"],
        },
        "unselected": aggregator.unselected,
        **aggregator.summarize_accuracy(),
        "labelled": aggregator.labeled,
        "unusable_maps": {
            method: {reason: sorted(keys) for reason, keys in sorted(reasons.items())}
            for method, reasons in aggregator.unusable_maps.items()
        },
        "warnings": aggregator.warnings(description),
        "interval": {"kind": interval, "level": CONFIDENCE_LEVEL, "draws": BOOTSTRAP_RESAMPLES},
        "rows": rows,
    } | ({"sweeps": sweeps} if sweeps else {})


def _summarize_column(
    method: str,
    metric: str,
    column: ScoreColumn,
    reference: ScoreColumn | None,
    interval: Interval,
    *,
    is_external: bool,
) -> dict[str, Any]:
    keys = sorted(column.index)
    has_cost = bool(keys) and not is_external
    return {
        "method": method,
        "metric": metric,
        **_to_json(estimate_mean(column.values_of(keys), interval)),
        **column.mean_chance(),
        "undefined": dict(sorted(column.undefined.items())),
        **({"undefined_images": dict(sorted(column.undefined_images.items()))} if column.undefined_images else {}),
        "difference": None if reference is None else _difference(column, reference, interval),
        "curve": column.mean_curve(),
        "forwards": column.forwards / len(keys) if has_cost else None,
        "backwards": column.backwards / len(keys) if has_cost else None,
    }


def _subtract_control(
    aggregator: RunAggregator, row: Mapping[str, Any], control: str, first: str, interval: Interval
) -> dict[str, Any] | None:
    """Return the mean paired difference to the random control, or None without common items."""
    if control == first:
        return row["difference"]
    columns, metric = aggregator.columns, row["metric"]
    return _difference(columns[row["method"], metric], columns[control, metric], interval)


def _summarize_groups(groups: ItemGroups, column: ScoreColumn, interval: Interval) -> dict[str, Any]:
    """Return the summaries by correctness and by class, and the mean over classes; {} if no image of the column has a label."""
    keys = sorted(column.index)
    by_correctness = groups.summarize_correctness(keys, column.values_of, interval)
    if not by_correctness:
        return {}
    by_class = groups.summarize_classes(keys, column.values_of)
    class_mean = _to_json(estimate_class_mean(by_class, interval))
    return {"by_correctness": by_correctness, "class_mean": class_mean, "by_class": by_class}


def _difference(column: ScoreColumn, reference: ScoreColumn, interval: Interval) -> dict[str, Any] | None:
    """Return the mean difference over the items that both columns have, or None without such items."""
    common = [key for key in sorted(column.index) if key in reference.index]
    if not common:
        return None
    return _to_json(paired_difference(column.values_of(common), reference.values_of(common), interval))


def _to_json(estimate: Estimate) -> dict[str, Any]:
    return without_nan(asdict(estimate))
