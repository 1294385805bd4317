"""Implementation of ``xplain compare RUN...``: pair methods by image and test their differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import UsageError
from xplain.core.files import lock_directory
from xplain.core.run_store import fingerprint
from xplain.pipelines.evaluated_runs import EvaluatedRun, RunMethod
from xplain.pipelines.run_pairing import (
    check_class_names,
    check_images,
    check_targets,
    collect_methods,
    common_metrics,
    find_pairs,
)
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
        better = metrics[label]["better"]
        wins, ties, losses = count_wins(column, better)
        count = 0 if better == "neither" else wins + ties + losses
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
