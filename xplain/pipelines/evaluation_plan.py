"""Plan an evaluation: check the request, load the model, and choose the images, methods and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from xplain.core.config import EvaluateConfig, PerClassOrder
from xplain.core.errors import UsageError, emit_note
from xplain.core.options import ComputeOptions
from xplain.core.run_store import SCHEMA, fingerprint, read_fingerprint
from xplain.core.types import PYTORCH
from xplain.data.class_names import ClassNames
from xplain.data.datasets import Item, index_items, select_items, split_labels
from xplain.models import Classifier
from xplain.oracle.engine_choice import choose_engine
from xplain.oracle.engines import Engine
from xplain.oracle.runtime import load_model, predict
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.attribution import check_methods, resolve_methods, with_control
from xplain.pipelines.batches import read_items
from xplain.pipelines.external_maps import ExternalMaps, check_map_names, find_external_maps
from xplain.pipelines.measurement import check_metrics, resolve_metrics
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricRun
from xplain.pipelines.planned_rows import plan_rows
from xplain.pipelines.records import describe_run, device_entry, engine_entry
from xplain.pipelines.run_folders import describe_request
from xplain.reports.control import CONTROL

Source = MethodRun | ExternalMaps


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """A checked request with its loaded model. items: the selected images, of which a shard is a part.

    label_names: names of the classes of all images, by index. engine: what computes the model; None: PyTorch.
    """

    config: EvaluateConfig
    classifier: Classifier
    methods: Sequence[MethodRun]
    metrics: Sequence[MetricRun]
    items: Sequence[Item]
    per_class_order: PerClassOrder | None
    external_maps: Sequence[ExternalMaps] = ()
    label_names: Mapping[str, str] = field(default_factory=dict)
    engine: Engine | None = None

    @property
    def sources(self) -> list[Source]:
        """The methods and the external maps, in the order of the tables."""
        return _order_sources(self.methods, self.external_maps)

    def describe(self) -> dict[str, Any]:
        """Return the content of ``run.json``. A run can be resumed only if its fingerprint and its baseline images are unchanged."""
        config, classifier, items = self.config, self.classifier, self.items
        facts = describe_run(config.compute, classifier, self.engine)
        stable = {key: facts[key] for key in ("model", "preprocessing", "seed", "precision")}
        stable |= device_entry(facts) | engine_entry(facts)
        if output := classifier.output.settings | (
            {} if config.model.logits is None else {"name": config.model.logits}
        ):
            stable["output"] = output
        labeled = sum(item.label is not None for item in items)
        return {
            "schema": SCHEMA,
            "fingerprint": stable
            | {
                "target": config.target,
                "class_names": _hash_class_names(classifier.class_names),
                "per_class": self.per_class_order,
            },
            "request": describe_request(config),
            "dataset": {"location": config.dataset, "items": len(items), "labelled": labeled},
            "classes": _count_classes(classifier),
            "label_names": self.label_names,
            "accuracy": None if classifier.accuracy is None else asdict(classifier.accuracy),
            "protocol": config.protocol,
            "methods": {source.label: _describe_source(source) for source in self.sources},
            "metrics": {metric.label: _describe_metric(metric) for metric in self.metrics},
            "environment": {key: facts[key] for key in ("device", "engine", "versions")},
        }


def load_plan(
    config: EvaluateConfig, classifier: Classifier | None = None, items: Sequence[Item] | None = None
) -> EvaluationPlan | None:
    """Check a request, load the model and select the images; return None if no metric evaluates single images.

    classifier: used instead of the model of the request. items: used instead of the data set of the request.
    """
    check_methods(config.methods, config.layer, config.layout)
    check_map_names(config.maps)
    metrics = [metric for metric in resolve_metrics(config.protocol, config.metrics) if metric.spec.scope == "image"]
    if not metrics:
        return None
    if classifier is None:
        classifier = load_model(config.model, config.pixels, config.target)
    check_metrics(metrics, classifier)
    choices = with_control(config.methods)
    methods = resolve_methods(choices, config.score, classifier, config.layer, config.layout)
    order = _per_class_order(config)
    TargetSpec.parse(config.target, None, classifier)
    items = read_items(config, classifier) if items is None else list(items)
    index = index_items(config.dataset, items)
    metrics = [
        metric.for_output(classifier.output).with_annotations(index, classifier.class_names) for metric in metrics
    ]
    label_names = _name_labels(items, classifier.class_names)
    explains_labels = config.target == "label"
    external_maps = find_external_maps(config.maps, metrics, split_labels(items) if explains_labels else items)
    items = select_items(items, config.limit, config.per_class, config.compute.seed if order == "random" else None)
    if explains_labels:
        items = _split_labels(items)
    if explains_labels and all(item.label is None for item in items):
        raise UsageError("--target label requires labels", "use class folders or --labels")
    rows = plan_rows(classifier, _order_sources(methods, external_maps), metrics).times(len(items))
    engine = choose_engine(
        classifier, config.compute.engine, config.compute.precision, rows, _recorded_engine(config.output)
    )
    return EvaluationPlan(config, classifier, methods, metrics, items, order, external_maps, label_names, engine)


def _recorded_engine(folder: Path) -> dict[str, str] | None:
    """Return the engine of an existing run, or None if there is no run."""
    stored = read_fingerprint(folder)
    return None if stored is None else stored.get("engine", PYTORCH)


def _split_labels(items: Sequence[Item]) -> list[Item]:
    """Return one item per image and label. Emit a note on images without labels, which are left out."""
    unlabeled = [item.key for item in items if item.labels == ()]
    if unlabeled:
        emit_note(f"--target label leaves out {len(unlabeled)} images without a label, such as {unlabeled[0]!r}")
    return split_labels(items)


def _per_class_order(config: EvaluateConfig) -> PerClassOrder | None:
    """Return which images ``--per-class`` takes, as an existing run does; None without ``--per-class``."""
    if config.per_class is None or config.per_class_order is not None:
        return config.per_class_order
    stored = read_fingerprint(config.output)
    if stored is None:
        return "random"
    if "per_class" in stored:
        return "first" if stored["per_class"] == "first" else "random"
    emit_note(
        f"{str(config.output)!r} was begun by an earlier version of xplain, so --per-class takes the first images of each class; "
        "use --per-class-order random to draw them"
    )
    return "first"


def _order_sources(methods: Sequence[MethodRun], maps: Sequence[ExternalMaps]) -> list[Source]:
    """Return methods and external maps as tables list them: the control is the last unless it is the first."""
    last = [method for method in methods[1:] if method.spec.name == CONTROL]
    return [*(method for method in methods if method not in last), *maps, *last]


def check_models(configs: Sequence[EvaluateConfig]) -> None:
    """Load the model of each request once to detect invalid models before a long evaluation starts."""
    for config in configs:
        load_model(config.model, config.pixels, config.target)


def _hash_class_names(class_names: ClassNames) -> str | None:
    """Return a digest of the names of the classes, which decide the classes of labels and boxes; None if they have none."""
    if not class_names.labels and not class_names.wnids:
        return None
    return fingerprint(list(class_names.labels), list(class_names.wnids))[:16]


def _describe_metric(metric: MetricRun) -> dict[str, Any]:
    """Return the record of a metric."""
    record = metric.describe() | {"axis": metric.spec.axis}
    if metric.spec.average != "mean":
        record["average"] = metric.spec.average
    return record | ({"has_chance": True} if metric.spec.has_chance else {})


def _name_labels(items: Sequence[Item], class_names: ClassNames) -> dict[str, str]:
    """Return the names of the classes that images have as labels, by index, for those that have a name."""
    labels = {label for item in items for label in (item.label, *(item.labels or ())) if label is not None}
    names = class_names.labels
    return {str(label): names[label] for label in sorted(labels) if 0 <= label < len(names)}


def _describe_source(source: Source) -> dict[str, Any]:
    """Return the record of a method or of external maps."""
    record = source.describe() | source.origin
    return record | source.hash_references() if isinstance(source, MethodRun) else record


def _count_classes(classifier: Classifier) -> int:
    """Return the number of classes of the model."""
    if classifier.classes is not None:
        return classifier.classes
    shape = (1, classifier.input_channels, *classifier.size)
    blank = torch.zeros(shape, device=classifier.device, dtype=classifier.dtype)
    return predict(classifier, blank, ComputeOptions())[0].shape[1]
