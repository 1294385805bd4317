"""``xplain compare RUN RUN...``: which methods of which runs may be paired, and what the pairs say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import InputError, UsageError
from xplain.core.run_store import check_run, fingerprint, read_run, settings_digest
from xplain.pipelines.plans import CONTROL
from xplain.reports.comparison import SCHEMA
from xplain.reports.statistics import EXACT, PERMUTATIONS, count_wins, estimate, holm, sign_flip_p

TEST = (
    f"two-sided sign-flip permutation test of the mean difference (exact up to {EXACT} images, else {PERMUTATIONS} patterns); "
    "p (Holm) is corrected over all pairs and metrics by Holm 1979; intervals are 95 % bootstrap intervals of one pair each"
)


@dataclass(frozen=True, eq=False)
class Run:
    """What an evaluate run holds: images by key with their hashes and targets; values by mark and key, None where undefined."""

    name: str
    description: dict[str, Any]
    images: dict[str, str]
    targets: dict[str, int]
    values: dict[str, dict[str, float | None]]

    @classmethod
    def read(cls, folder: Path, name: str) -> Run:
        """Raises InputError when the folder is no run directory."""
        description, records = read_run(folder)
        check_run(description, str(folder))
        run = cls(name, description, {}, {}, {})
        for record in records:
            if record["mark"] == "item" and isinstance(record.get("sha256"), str):
                run.images[record["key"]] = record["sha256"]
            elif "target" in record and isinstance(record.get("value", ""), int | float | None):
                run.targets[record["key"]] = record["target"]
                run.values.setdefault(record["mark"], {})[record["key"]] = record["value"]
            elif record["mark"] == "item" or "target" in record:
                raise InputError(f"the record of {record['key']!r} in {str(folder)!r} is damaged", "delete its line")
        if not run.values:
            raise InputError(f"the run {name!r} holds no result", "finish it with xplain evaluate")
        return run

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics with a value an image, by label."""
        return {label: each for label, each in self.description["metrics"].items() if "scope" not in each}


@dataclass(frozen=True, eq=False)
class Arm:
    """A method of a run. setting: the run's fingerprint."""

    name: str
    label: str
    run: Run

    @property
    def setting(self) -> str:
        """What besides the method determines the numbers."""
        return json.dumps(self.run.description["fingerprint"], sort_keys=True)

    def values(self, metric: Mapping[str, Any], keys: Sequence[str]) -> Floats:
        """The scores of these images, NaN where undefined. Raises InputError naming an image that is missing."""
        there = self.run.values.get(settings_digest(self.run.description["methods"][self.label], metric), {})
        missing = [key for key in keys if key not in there]
        if missing:
            what = f"{metric['metric']} of {self.label} for {missing[0]!r}"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(f"the run {self.run.name!r} lacks {what}{more}", "finish it with the same xplain evaluate")
        return np.array([np.nan if (v := there[key]) is None else v for key in keys], dtype=np.float64)


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """The record of a comparison. Raises InputError naming why runs cannot be paired, and UsageError where nothing can be."""
    names = _distinct_names(folders)
    runs = [Run.read(folder, name) for folder, name in zip(folders, names, strict=True)]
    metrics, left_out = common_metrics(runs)
    for run in runs[1:]:
        check_images(runs[0], run)
        check_targets(runs[0], run)
    arms, repeated = find_arms(runs)
    pairs = find_pairs(arms)
    if not pairs:
        raise UsageError(
            f"{names[0]!r} holds one method and nothing to compare it with",
            "give another run, or evaluate a second method",
        )
    keys = sorted(runs[0].images)
    values = {(arm.name, label): arm.values(each, keys) for arm in arms for label, each in metrics.items()}
    rows = pair_up(pairs, metrics, values)
    return {
        "schema": SCHEMA,
        "kind": "runs",
        "fingerprint": fingerprint(names, rows, [run.description["fingerprint"] for run in runs]),
        "images": len(keys),
        "runs": [{"name": run.name, **_facts(run.description)} for run in runs],
        "metrics": metrics,
        "test": TEST,
        "arms": [_describe_arm(arm, metrics, values) for arm in arms],
        "repeated": repeated,
        "left_out": left_out,
        "pairs": rows,
    }


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' last parts where these differ, else their paths. Raises UsageError for a folder given twice."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run is given twice", "give each run once")
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def common_metrics(runs: Sequence[Run]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Metrics that all runs define alike, by the first run's labels, and labels that not all runs have.

    Raises InputError naming the parameter in which a metric's definitions differ.
    """
    first, *others = runs
    common, left_out = dict(first.metrics), set[str]()
    for run in others:
        there = {_definition(each): label for label, each in run.metrics.items()}
        for label, each in list(common.items()):
            if _definition(each) in there:
                continue
            same = [other for other in run.metrics.values() if other["metric"] == each["metric"]]
            if same:
                raise InputError(_metric_difference(each, same[0], first, run), "evaluate with one definition")
            left_out.add(label)
            del common[label]
        known = {_definition(each) for each in first.metrics.values()}
        left_out |= {label for definition, label in there.items() if definition not in known}
    if not common:
        raise InputError("the runs have no metric in common", "evaluate them with the same -M")
    return common, sorted(left_out)


def _definition(metric: Mapping[str, Any]) -> str:
    return json.dumps({key: metric.get(key) for key in ("metric", "params", "version", "files")}, sort_keys=True)


def _metric_difference(a: Mapping[str, Any], b: Mapping[str, Any], first: Run, other: Run) -> str:
    """The first part of two definitions that differs, in words."""
    one, two = ({**each["params"], "version": each["version"], "files": each.get("files")} for each in (a, b))
    key = next(key for key in sorted({*one, *two}) if one.get(key) != two.get(key))
    return f"{a['metric']} is defined differently: {key} is {one.get(key)!r} in {first.name!r} and {two.get(key)!r} in {other.name!r}"


def check_images(first: Run, other: Run) -> None:
    """Raises InputError naming an image that one lacks or that is another one."""
    for one, two in ((first, other), (other, first)):
        if missing := sorted(one.images.keys() - two.images.keys()):
            raise InputError(
                f"the runs are over other images: {missing[0]!r} is in {one.name!r} and not in {two.name!r} "
                f"({len(missing)} such)",
                "evaluate the same images",
            )
    for key in sorted(first.images):
        if first.images[key] != other.images[key]:
            raise InputError(
                f"the runs are over other images: {key!r} has other bytes in {first.name!r} and {other.name!r}",
                "evaluate the same files",
            )


def check_targets(first: Run, other: Run) -> None:
    """Raises InputError naming an image for which another class is explained."""
    both = sorted(first.targets.keys() & other.targets.keys())
    changed = [key for key in both if first.targets[key] != other.targets[key]]
    if changed:
        key = changed[0]
        raise InputError(
            f"the runs explain other targets: for {key!r} class {first.targets[key]} in {first.name!r} and "
            f"{other.targets[key]} in {other.name!r} ({len(changed)} such)",
            "evaluate both with --target label",
        )


def find_arms(runs: Sequence[Run]) -> tuple[list[Arm], list[str]]:
    """The methods of all runs; one that two runs did under the same settings is one arm, and its second is named.

    A method's name says its run where another arm has the same label.
    """
    found: dict[tuple[str, str], Arm] = {}
    repeated = []
    for run in runs:
        for label, method in run.description["methods"].items():
            arm = Arm("", label, run)
            key = (arm.setting, json.dumps(method, sort_keys=True))
            if key in found:
                repeated.append(f"{label} @ {run.name}")
            else:
                found[key] = arm
    arms = sorted(found.values(), key=lambda arm: arm.label == CONTROL)  # the control last
    labels = [arm.label for arm in arms]
    named = [
        Arm(arm.label if labels.count(arm.label) == 1 else f"{arm.label} @ {arm.run.name}", arm.label, arm.run)
        for arm in arms
    ]
    return named, repeated


def find_pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Which arms are compared: methods under the same settings, and the same method under different settings.

    Where that leaves nothing and every run has one method (but for the control), those are compared.
    """
    pairs = [(a, b) for a, b in combinations(arms, 2) if (a.setting == b.setting) != (a.label == b.label)]
    own = [arm for arm in arms if arm.label != CONTROL]
    if all(CONTROL in (a.label, b.label) for a, b in pairs) and len({id(arm.run) for arm in own}) == len(own):
        pairs = [*combinations(own, 2), *pairs]
    return pairs


def pair_up(
    pairs: Sequence[tuple[Arm, Arm]], metrics: Mapping[str, Mapping[str, Any]], values: Mapping[tuple[str, str], Floats]
) -> list[dict[str, Any]]:
    """A row a metric and pair: the mean of first minus second, its interval, wins, p and Holm's p over all rows."""
    plan = [(label, a, b) for label in metrics for a, b in pairs]
    differences = np.stack([values[a.name, label] - values[b.name, label] for label, a, b in plan], axis=1)
    p = sign_flip_p(differences)
    rows = []
    for k, ((label, a, b), one, adjusted) in enumerate(zip(plan, p, holm(p), strict=True)):
        wins, ties, losses = count_wins(differences[:, k], metrics[label]["better"])
        rows.append(
            {"metric": label, "first": a.name, "second": b.name}
            | {key: _plain(value) for key, value in asdict(estimate(differences[:, k])).items()}
            | {"undefined": int(np.isnan(differences[:, k]).sum()), "wins": wins, "ties": ties, "losses": losses}
            | {"win_rate": _plain((wins + ties / 2) / (wins + ties + losses)) if wins + ties + losses else None}
            | {"p": _plain(one), "p_holm": _plain(adjusted)}
        )
    return rows


def _plain(value: float) -> float | None:
    """None for NaN, which JSON cannot hold."""
    return None if value != value else value if isinstance(value, int) else float(value)


def _facts(description: Mapping[str, Any]) -> dict[str, Any]:
    return {"fingerprint": description["fingerprint"], "dataset": description["dataset"]["location"]}


def _describe_arm(arm: Arm, metrics: Mapping[str, Any], values: Mapping[tuple[str, str], Floats]) -> dict[str, Any]:
    means = {
        label: {key: _plain(value) for key, value in asdict(estimate(values[arm.name, label])).items()}
        for label in metrics
    }
    return {"name": arm.name, "run": arm.run.name, **arm.run.description["methods"][arm.label], "means": means}
