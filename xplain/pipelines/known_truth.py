"""Implementation of ``xplain evaluate known:NAME``: score methods by planted mechanisms, and grade metrics on maps of known quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xplain.core.config import Choice, EvaluateConfig
from xplain.core.errors import Failure, UsageError, XplainError
from xplain.core.registry import METHODS
from xplain.core.run_store import SCHEMA, RunStore
from xplain.data.preprocessing import Preprocessing
from xplain.known import SIDE, Mechanism, Planted, find_mechanisms
from xplain.known.registry import GROUP
from xplain.models import Classifier
from xplain.models.classifier import Weights
from xplain.models.devices import select_device
from xplain.oracle.runtime import inference_session
from xplain.pipelines.attribution import check_methods, label_of, with_control
from xplain.pipelines.known_grades import check_gradable, grade_metric
from xplain.pipelines.known_scores import score_maps
from xplain.pipelines.measurement import resolve_metrics
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricRun
from xplain.pipelines.progress import OnProgress, ignore_progress
from xplain.pipelines.records import describe_cost, device_entry, library_versions
from xplain.reports.known_marks import TRUTH, method_mark, metric_mark
from xplain.reports.known_summary import summarize_known

IMAGES = 8  # per mechanism, by default
# The metrics that are graded by default: those that take a map, need no annotation and few rows. SaCo is graded with two fills, because
# the truth is about changes from black, and infidelity without units, because the best maps of most mechanisms have none.
DEFAULT_METRICS = (
    "insertion",
    "deletion",
    "sensitivity-n",
    "infidelity:normalize=true",
    "sds",
    "saco",
    "saco:baseline=black",
    "average-drop",
    "effective-complexity",
)
PREPROCESSING = Preprocessing((SIDE, SIDE), SIDE)


@dataclass(frozen=True, eq=False)
class KnownPlan:
    """A checked request. required: labels of the methods that the user asked for. images: per mechanism."""

    config: EvaluateConfig
    mechanisms: Sequence[Mechanism]
    methods: Sequence[MethodRun]
    required: frozenset[str]
    metrics: Sequence[MetricRun]
    images: int

    def describe(self) -> dict[str, Any]:
        """Return the content of ``run.json``."""
        compute = self.config.compute
        device = str(select_device(self.config.model.device))
        return {
            "schema": SCHEMA,
            "fingerprint": {
                "model": None,
                "target": "planted",
                "seed": compute.seed,
                "precision": compute.precision,
                **device_entry({"device": device}),
            },
            "dataset": {"location": self.config.dataset, "items": len(self.mechanisms) * self.images, "labelled": 0},
            "known": {mechanism.name: mechanism.kind for mechanism in self.mechanisms},
            "protocol": None,
            "methods": {run.label: run.describe() | run.origin | {"slopes": run.slopes} for run in self.methods},
            "metrics": {metric.label: metric.describe() for metric in self.metrics},
            "environment": {"device": device, "versions": library_versions()},
        }


def load_plan(config: EvaluateConfig) -> KnownPlan:
    """Check a request. Without methods, all methods are tried; without metrics, DEFAULT_METRICS are graded.

    Raises UsageError for an unknown mechanism, method or metric, and for a metric that cannot be graded.
    """
    mechanisms = find_mechanisms(config.dataset)
    choices = with_control(config.methods) if config.methods else tuple(Choice(spec.name) for spec in METHODS)
    check_methods(choices)
    methods = [_resolve(choice, config) for choice in choices]
    required = frozenset(label_of(choice, METHODS.get(choice.name).name) for choice in config.methods)
    metrics = resolve_metrics(None, config.metrics or tuple(map(Choice.parse, DEFAULT_METRICS)))
    for metric in metrics:
        check_gradable(metric)
    return KnownPlan(config, mechanisms, methods, required, metrics, config.limit or IMAGES)


def _resolve(choice: Choice, config: EvaluateConfig) -> MethodRun:
    spec = METHODS.get(choice.name)
    label = label_of(choice, spec.name)
    return MethodRun.resolve(spec, dict(choice.params), PREPROCESSING, score=config.score, label=label)


def make_classifier(planted: Planted, name: str, device: str = "cpu") -> Classifier:
    """Return the network of a mechanism as a classifier of images in [0, 1], in float32."""
    classifier = Classifier(planted.network.float(), name=name, preprocessing=PREPROCESSING, weights=Weights("planted"))
    return classifier.to(select_device(device)).eval()


def choose_run_folder(config: EvaluateConfig, output: Path | None) -> EvaluateConfig:
    """Return the request with its run directory: ``output``, or xplain-runs/known-NAME with the settings that differ from the defaults."""
    if output is not None:
        return replace(config, output=output)
    name = config.dataset.replace(":", "-")
    settings = {"seed": (config.compute.seed, 0), "precision": (config.compute.precision, "fp32")}
    changed = [f"{key}={value}" for key, (value, default) in settings.items() if value != default]
    return replace(config, output=Path("xplain-runs") / ".".join([name, *changed]))


def summarize_plan(plan: KnownPlan) -> dict[str, Any]:
    """Return the summary of the run directory of a plan, for the mechanisms and the images of the plan."""
    kinds: dict[str, str] = {mechanism.name: mechanism.kind for mechanism in plan.mechanisms}
    return summarize_known(plan.config.output, kinds, plan.images)


def evaluate_known(plan: KnownPlan, on_progress: OnProgress = ignore_progress) -> Iterator[Failure]:
    """Compute what the run directory lacks, and yield each requested method that does not fit a mechanism.

    ``on_progress`` counts pairs of a mechanism and a method or metric.
    """
    config = plan.config
    with RunStore.open(config.output, config.shard[0], plan.describe()) as store:
        run = KnownRun(plan, store)
        yield from run.evaluate(on_progress)


@dataclass(frozen=True, eq=False)
class KnownGroup:
    """Images that share a planted network. keys: their names, ``MECHANISM/INDEX``."""

    mechanism: Mechanism
    number: int
    keys: Sequence[str]


@dataclass(frozen=True, eq=False)
class KnownRun:
    """A plan and the results that its run directory has."""

    plan: KnownPlan
    store: RunStore

    @cached_property
    def marks(self) -> dict[str, str]:
        """Digests of the settings of each method, and of each metric on the ladder, by label."""
        methods = {run.label: method_mark(run.describe()) for run in self.plan.methods}
        return methods | {metric.label: metric_mark(metric.describe()) for metric in self.plan.metrics}

    @property
    def groups(self) -> list[KnownGroup]:
        """The groups of this shard: all groups of a mechanism if there are enough mechanisms, so that a network is trained once."""
        plan, (index, count) = self.plan, self.plan.config.shard
        by_mechanism = len(plan.mechanisms) >= count
        groups = [
            KnownGroup(
                mechanism,
                start // GROUP,
                [f"{mechanism.name}/{i}" for i in range(start, min(start + GROUP, plan.images))],
            )
            for mechanism in (plan.mechanisms[index::count] if by_mechanism else plan.mechanisms)
            for start in range(0, plan.images, GROUP)
        ]
        return groups if by_mechanism else groups[index::count]

    def missing(self, group: KnownGroup, label: str) -> list[int]:
        """Return the images of a group without a result of a method or metric."""
        return [i for i, key in enumerate(group.keys) if not self.store.has(key, self.marks[label])]

    def evaluate(self, on_progress: OnProgress) -> Iterator[Failure]:
        """Compute the missing results group by group. Yields the mechanisms that cannot be planted."""
        groups = self.groups
        runs: list[MethodRun | MetricRun] = [*self.plan.methods, *self.plan.metrics]
        done, total = 0, len(groups) * len(runs)
        on_progress(done, total)
        for group in groups:
            if any(self.missing(group, run.label) for run in runs):
                try:
                    planted = group.mechanism.plant(self.plan.config.compute.seed, group.number)
                except XplainError as error:  # of a trained network
                    yield Failure(group.mechanism.name, error)
                else:
                    yield from self._run_group(group, planted)
            done += len(runs)
            on_progress(done, total)

    def _run_group(self, group: KnownGroup, planted: Planted) -> Iterator[Failure]:
        """Run the methods and metrics on the images of a group."""
        classifier = make_classifier(planted, f"known:{group.mechanism.name}", self.plan.config.model.device)
        with inference_session(classifier):
            for method in self.plan.methods:
                yield from self._score(method, group, planted, classifier)
            for metric in self.plan.metrics:
                self._grade(metric, group, planted, classifier)

    def _score(
        self, method: MethodRun, group: KnownGroup, planted: Planted, classifier: Classifier
    ) -> Iterator[Failure]:
        """Run a method on the images without a result, and store its measures or the reason why it does not fit."""
        index = self.missing(group, method.label)
        if not index:
            return
        common = {"mark": self.marks[method.label], "method": method.label, "metric": TRUTH}
        subset = planted.take(index)
        try:
            result = method.attribute(
                classifier,
                subset.images.to(classifier.device, classifier.dtype),
                subset.targets.to(classifier.device),
                self.plan.config.compute,
                flag_maps=False,
            )
        except XplainError as error:
            self.store.append([{"key": group.keys[i], **common, "refused": str(error)} for i in index])
            if method.label in self.plan.required:
                yield Failure(group.mechanism.name, _refuse(method.label, group.mechanism.name, error))
            return
        scores = score_maps(result.values, subset, slopes=method.slopes, score=method.score)
        details = result.with_details_on_cpu()
        self.store.append(
            [
                {"key": group.keys[i], **common, "scores": scores[k], "cost": describe_cost(details, k)}
                for k, i in enumerate(index)
            ]
        )

    def _grade(self, metric: MetricRun, group: KnownGroup, planted: Planted, classifier: Classifier) -> None:
        """Run a metric on the ladder of each image without a result. There are no values if the mechanism has no set of relevant pixels."""
        compute = self.plan.config.compute
        common = {"mark": self.marks[metric.label], "metric": metric.label}
        for i in self.missing(group, metric.label):
            grades: dict[str, Any] = {"values": {}}
            if planted.relevant is not None:
                grades = grade_metric(metric, classifier, planted, i, group.keys[i], compute)
            self.store.append([{"key": group.keys[i], **common, **grades}])


def _refuse(label: str, name: str, error: XplainError) -> UsageError:
    """Return the error of a requested method that does not fit a mechanism."""
    return UsageError(f"{label} does not fit known:{name}: {error.message}", error.hint)
