"""Pair the methods of evaluation runs: check that the runs can be compared, and choose the pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from xplain.core.errors import InputError
from xplain.pipelines.evaluated_runs import EvaluatedRun, RunMethod
from xplain.reports.control import CONTROL


def common_metrics(runs: Sequence[EvaluatedRun]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the metrics with identical settings in all runs, by their label in the first run, and the labels of the remaining metrics.

    Raises InputError naming the parameter in which two definitions of a metric differ.
    """
    first, *others = runs
    common, left_out = dict(first.metrics), set[str]()
    for run in others:
        definitions = {_definition(metric): label for label, metric in run.metrics.items()}
        for label, metric in list(common.items()):
            if _definition(metric) in definitions:
                continue
            for other in run.metrics.values():
                if other["metric"] == metric["metric"]:
                    raise InputError(
                        _metric_difference(metric, other, first, run),
                        "evaluate both runs with the same settings",
                    )
            left_out.add(label)
            del common[label]
        known = {_definition(metric) for metric in first.metrics.values()}
        left_out |= {label for definition, label in definitions.items() if definition not in known}
    if not common:
        raise InputError("the runs have no metric in common", "evaluate them with the same --metric")
    return common, sorted(left_out)


def _definition(metric: Mapping[str, Any]) -> str:
    return json.dumps({key: metric.get(key) for key in ("metric", "params", "version", "files")}, sort_keys=True)


def _metric_difference(a: Mapping[str, Any], b: Mapping[str, Any], first: EvaluatedRun, other: EvaluatedRun) -> str:
    """Return a message that states the first difference between two definitions of a metric."""
    one = _definition_parts(a)
    two = _definition_parts(b)
    key = next(key for key in sorted({*one, *two}) if one.get(key) != two.get(key))
    values = f"{one.get(key)!r} in {first.name!r} but {two.get(key)!r} in {other.name!r}"
    return f"{a['metric']} has different settings in the runs: {key} is {values}"


def _definition_parts(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {**metric["params"], "version": metric["version"], "files": metric.get("files")}


def check_images(first: EvaluatedRun, other: EvaluatedRun) -> None:
    """Raise InputError if an image is missing from one run or if its content differs."""
    for one, two in ((first, other), (other, first)):
        missing = sorted(one.images.keys() - two.images.keys())
        if missing:
            images = (
                f"{len(missing)} images, including {missing[0]!r}, are" if len(missing) > 1 else f"{missing[0]!r} is"
            )
            raise InputError(
                f"the runs have different images: {images} in {one.name!r} but not in {two.name!r}",
                "evaluate both runs on the same images",
            )
    for key in sorted(first.images):
        if first.images[key] != other.images[key]:
            raise InputError(
                f"the runs have different images: the file {key!r} differs between {first.name!r} and {other.name!r}",
                "evaluate both runs on the same files",
            )


def check_targets(first: EvaluatedRun, other: EvaluatedRun) -> None:
    """Raise InputError if the explained class of an image differs."""
    common = sorted(first.targets.keys() & other.targets.keys())
    changed = [key for key in common if first.targets[key] != other.targets[key]]
    if changed:
        key = changed[0]
        images = "1 image" if len(changed) == 1 else f"{len(changed)} images"
        raise InputError(
            f"the runs explain different classes of {images}: for {key!r}, class {first.targets[key]} in {first.name!r} but "
            f"class {other.targets[key]} in {other.name!r}",
            "evaluate both runs with --target label",
        )


def check_class_names(first: EvaluatedRun, other: EvaluatedRun, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError if the runs name the classes of one model differently and a metric reads a file, such as boxes with classes."""
    names = [run.description["fingerprint"].get("class_names") for run in (first, other)]
    is_same_model = first.settings.get("model") == other.settings.get("model")
    labels = [label for label, metric in metrics.items() if metric.get("files")]
    if labels and is_same_model and None not in names and names[0] != names[1]:
        raise InputError(
            f"{first.name!r} and {other.name!r} have different class names, which {labels[0]} looks up in its file",
            "evaluate both with the same --classes",
        )


def collect_methods(runs: Sequence[EvaluatedRun]) -> tuple[list[RunMethod], list[str]]:
    """Return the methods of all runs and the names of duplicates.

    A method that occurs in several runs with identical settings is used once.

    The name of a method includes its run if another method has the same label.
    """
    unique: dict[tuple[str, str], RunMethod] = {}
    repeated = []
    for run in runs:
        for label, description in run.description["methods"].items():
            method = RunMethod("", label, run)
            key = (method.settings, _method_settings(description))
            if key in unique:
                repeated.append(f"{label} @ {run.name}")
            else:
                unique[key] = method
    methods = sorted(unique.values(), key=lambda method: method.label == CONTROL)  # put the control last
    labels = [method.label for method in methods]
    named = []
    for method in methods:
        name = method.label if labels.count(method.label) == 1 else f"{method.label} @ {method.run.name}"
        named.append(RunMethod(name, method.label, method.run))
    return named, repeated


def _method_settings(description: Mapping[str, Any]) -> str:
    """Return the settings of a method that affect its results, as JSON, without texts that may differ between versions of xplain."""
    return json.dumps(
        {key: description[key] for key in ("method", "params", "score", "method_version")}, sort_keys=True
    )


def find_pairs(methods: Sequence[RunMethod]) -> list[tuple[RunMethod, RunMethod]]:
    """Return the pairs to compare: different methods in runs with the same settings, and the same method in runs with different settings.

    If no such pair exists and every run has a single method besides the control, compare these methods.
    """
    pairs = [(a, b) for a, b in combinations(methods, 2) if (a.settings == b.settings) != (a.label == b.label)]
    others = [method for method in methods if method.label != CONTROL]
    only_control = all(CONTROL in (a.label, b.label) for a, b in pairs)
    if only_control and len({id(method.run) for method in others}) == len(others):
        pairs = [*combinations(others, 2), *pairs]
    return pairs
