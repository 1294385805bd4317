"""Implementation of ``xplain compare RUN...``: pair methods by image and test their differences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import InputError, UsageError
from xplain.core.files import lock_directory
from xplain.core.run_store import LATE_ENTRIES, check_run, fingerprint, read_run, settings_digest
from xplain.pipelines.attribution import CONTROL
from xplain.reports.comparison import SCHEMA
from xplain.reports.comparison_files import RECORD, check_folder, choose_folder, finish, load_existing, start
from xplain.reports.figures import check_formats
from xplain.reports.run_comparison import draw_differences, make_run_comparison_page
from xplain.reports.statistics import (
    MAX_EXACT,
    PERMUTATIONS,
    count_wins,
    estimate_mean,
    holm_correction,
    sign_flip_test,
)
from xplain.reports.sweep_plot import draw_metric_sweeps
from xplain.reports.sweeps import collect_arm_means, list_sweeps

TEST = (
    f"Two-sided sign-flip permutation test of the mean difference (exact for up to {MAX_EXACT} images, otherwise {PERMUTATIONS} random "
    "sign patterns). Holm's correction (1979) covers all pairs and metrics. Each interval is an uncorrected 95% bootstrap confidence "
    "interval for one pair."
)


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """The results of an evaluation run.

    images, targets: dicts that map keys to the SHA-256 digest and the explained class. values: values by settings digest and key, with None
    for undefined values.
    """

    name: str
    description: dict[str, Any]
    images: dict[str, str]
    targets: dict[str, int]
    values: dict[str, dict[str, float | None]]

    @classmethod
    def read(cls, folder: Path, name: str) -> EvaluatedRun:
        """Read a run directory. Raise InputError if ``folder`` is not a run directory or has no results."""
        description, records = read_run(folder)
        check_run(description, str(folder))
        run = cls(name, description, {}, {}, {})
        for record in records:
            if not run._add(record):
                raise InputError(
                    f"the record of {record['key']!r} in {str(folder)!r} is invalid",
                    "delete its line and run evaluate again",
                )
        if not run.values:
            raise InputError(f"run {name!r} has no results", "run the same evaluate command again")
        return run

    def _add(self, record: Mapping[str, Any]) -> bool:
        """Add a record. Return False if it is invalid."""
        key, is_item = record["key"], record["mark"] == "item"
        if is_item and isinstance(record.get("sha256"), str):
            self.images[key] = record["sha256"]
        elif "target" in record and isinstance(record.get("value", ""), int | float | None):
            self.targets[key] = record["target"]
            self.values.setdefault(record["mark"], {})[key] = record["value"]
        else:
            return not is_item and "target" not in record
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The fingerprint without the entries that choose images and labels, which are compared image by image."""
        entries = self.description["fingerprint"]
        return {key: value for key, value in entries.items() if key not in LATE_ENTRIES}

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Per-image metrics by label."""
        return {label: metric for label, metric in self.description["metrics"].items() if "scope" not in metric}


@dataclass(frozen=True, eq=False)
class RunMethod:
    """A method of a run. name: unique name across all runs. label: name within the run."""

    name: str
    label: str
    run: EvaluatedRun

    @property
    def settings(self) -> str:
        """The settings of the run that affect the results, as JSON."""
        return json.dumps(self.run.settings, sort_keys=True)

    def values(self, metric: Mapping[str, Any], keys: Sequence[str]) -> Floats:
        """Return the values of the images, with NaN for undefined values. Raise InputError if an image is missing."""
        mark = settings_digest(self.run.description["methods"][self.label], metric)
        stored = self.run.values.get(mark, {})
        missing = [key for key in keys if key not in stored]
        if missing:
            what = f"{metric['metric']} of {self.label} for {missing[0]!r}"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"run {self.run.name!r} is incomplete: missing {what}{more}", "run the same evaluate command again"
            )
        values = [stored[key] for key in keys]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def write_run_comparison(
    folders: Sequence[Path], output: Path, formats: Sequence[str], overwrite: bool, *, any_folder: bool = False
) -> dict[str, Any]:
    """Compare evaluation runs image by image; write the figure, the page and the record. Returns the record.

    any_folder: write another comparison than that in ``output`` into a folder beside it, instead of refusing.
    Raises XplainError if the runs cannot be paired or if existing files were not written by this comparison.
    """
    formats = ("png", *formats)
    check_formats(formats)
    names = [*(f"compare.{extension}" for extension in formats), "compare.html"]
    check_folder(output, names, overwrite)
    record = compare_runs(folders)
    plots = [entry["file"].removesuffix(".png") for entry in record.get("sweeps", ())]
    names += [f"{plot}.{extension}" for plot in plots for extension in formats]
    if any_folder:
        output = choose_folder(output, record["fingerprint"], former=output.with_name("xplain-compare"))
    record |= {"files": [str(output / name) for name in (*names, RECORD)]}
    with lock_directory(output):
        if existing := load_existing(output, names, record["fingerprint"], overwrite):
            return existing
        start(output, record["fingerprint"])
        figures = draw_differences(record, formats)
        contents = {f"compare.{extension}": content for extension, content in figures.items()}
        sweeps = draw_metric_sweeps(record["metrics"], collect_arm_means(record["arms"]), formats)
        shown = {name: content for name, content in sweeps.items() if name.endswith(".png")}
        contents["compare.html"] = make_run_comparison_page(record, shown).encode("utf-8", "backslashreplace")
        contents |= sweeps
        finish(output, contents, record)
    return record


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the record of a comparison. Raise InputError if the runs cannot be paired and UsageError if there is nothing to compare."""
    names = _distinct_names(folders)
    runs = [EvaluatedRun.read(folder, name) for folder, name in zip(folders, names, strict=True)]
    metrics, left_out = common_metrics(runs)
    for run in runs[1:]:
        check_images(runs[0], run)
        check_targets(runs[0], run)
        check_class_names(runs[0], run, metrics)
    methods, repeated = collect_methods(runs)
    pairs = find_pairs(methods)
    if not pairs:
        raise UsageError(
            f"run {names[0]!r} contains only one method",
            "pass a second run or evaluate another method",
        )
    keys = sorted(runs[0].images)
    values = {(m.name, label): m.values(metric, keys) for m in methods for label, metric in metrics.items()}
    rows = compare_pairs(pairs, metrics, values)
    first_run = {method.settings: method.run.name for method in reversed(methods)}
    groups = [first_run[method.settings] if len(first_run) > 1 else "" for method in methods]
    arms = [
        _describe_method(method, metrics, values) | {"group": group}
        for method, group in zip(methods, groups, strict=True)
    ]
    sweeps = list_sweeps(metrics, collect_arm_means(arms))
    return {
        "schema": SCHEMA,
        "kind": "runs",
        "fingerprint": fingerprint(names, rows, [run.settings for run in runs]),
        "images": len(keys),
        "runs": [_describe_run(run) for run in runs],
        "metrics": metrics,
        "test": TEST,
        "arms": arms,
        "repeated": repeated,
        "left_out": left_out,
        "pairs": rows,
    } | ({"sweeps": sweeps} if sweeps else {})


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the directory names if they are distinct, otherwise the full paths. Raise UsageError if a directory is repeated."""
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise UsageError(f"the run directory {str(folder)!r} is passed more than once", "pass each run once")
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


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


def compare_pairs(
    pairs: Sequence[tuple[RunMethod, RunMethod]],
    metrics: Mapping[str, Mapping[str, Any]],
    values: Mapping[tuple[str, str], Floats],
) -> list[dict[str, Any]]:
    """Return one row per metric and pair.

    A row has the mean difference (first minus second), its confidence interval, the wins, the p-value, and the p-value with Holm's
    correction over all rows.
    """
    plan = [(label, a, b) for label in metrics for a, b in pairs]
    differences = np.stack([values[a.name, label] - values[b.name, label] for label, a, b in plan], axis=1)
    p_values = sign_flip_test(differences)
    adjusted = holm_correction(p_values)
    rows = []
    for k, (label, a, b) in enumerate(plan):
        column = differences[:, k]
        wins, ties, losses = count_wins(column, metrics[label]["better"])
        count = wins + ties + losses
        rows.append(
            {
                "metric": label,
                "first": a.name,
                "second": b.name,
                **_describe_estimate(column),
                "undefined": int(np.isnan(column).sum()),
                "wins": wins,
                "ties": ties,
                "losses": losses,
                "win_rate": (wins + ties / 2) / count if count else None,
                "p": _nan_to_none(p_values[k]),
                "p_holm": _nan_to_none(adjusted[k]),
            }
        )
    return rows


def _describe_estimate(values: Floats) -> dict[str, Any]:
    """Return the mean, standard deviation, confidence interval and sample size, with NaN replaced by None."""
    return {key: _nan_to_none(value) for key, value in asdict(estimate_mean(values)).items()}


def _nan_to_none(value: float) -> float | None:
    """Replace NaN, which JSON cannot represent, by None."""
    if value != value:
        return None
    return value if isinstance(value, int) else float(value)


def _describe_run(run: EvaluatedRun) -> dict[str, Any]:
    description = run.description
    return {
        "name": run.name,
        "fingerprint": description["fingerprint"],
        "dataset": description["dataset"]["location"],
    }


def _describe_method(
    method: RunMethod, metrics: Mapping[str, Any], values: Mapping[tuple[str, str], Floats]
) -> dict[str, Any]:
    means = {label: _describe_estimate(values[method.name, label]) for label in metrics}
    return {
        "name": method.name,
        "run": method.run.name,
        "label": method.label,
        **method.run.description["methods"][method.label],
        "means": means,
    }
