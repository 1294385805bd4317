"""Implementation of ``xplain evaluate`` for per-image metrics: run every method and metric in one pass and store the results per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from xplain.core.array_store import ArrayStore
from xplain.core.config import EvaluateConfig
from xplain.core.errors import Failure
from xplain.core.run_store import RunStore, map_digest, settings_digest
from xplain.core.types import Attribution, Cost
from xplain.data.datasets import Item, select_shard
from xplain.models import Classifier
from xplain.oracle.runtime import inference_session
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.batches import PredictedBatch, TargetedBatch, largest_group, predict_batches
from xplain.pipelines.evaluation_plan import EvaluationPlan, Source, load_plan
from xplain.pipelines.external_maps import ExternalMaps
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricResult, MetricRun, run_metrics
from xplain.pipelines.predictions import describe_items
from xplain.pipelines.progress import OnProgress, OnResults, ResultCount, RowCounter, ignore_progress, ignore_results
from xplain.pipelines.records import describe_cost, list_flags
from xplain.pipelines.run_folders import check_request
from xplain.pipelines.stored_items import check_loaded_items, check_stored_items


def evaluate(config: EvaluateConfig, on_progress: OnProgress = ignore_progress) -> Iterator[Failure]:
    """Compute the results that are missing in the run directory and yield the failed images. ``on_progress`` counts images.

    Metrics that train networks on the whole dataset are computed in ``xplain.pipelines.roar``.
    Raises an XplainError for an error of the request as a whole.
    """
    plan = load_plan(config)
    if plan is not None:
        yield from run_plan(plan, on_progress)


def run_plan(
    plan: EvaluationPlan, on_progress: OnProgress = ignore_progress, on_results: OnResults = ignore_results
) -> Iterator[Failure]:
    """Compute what the run directory of a plan is missing; yield each image that failed.

    ``on_progress`` counts images. ``on_results`` counts values, one per image, method and metric.
    """
    config, classifier = plan.config, plan.classifier

    def check_store(store: RunStore) -> None:
        check_request(config, store.folder)
        check_stored_items(store, plan.items, classifier.class_names)

    with (
        inference_session(classifier, plan.engine),
        RunStore.open(config.output, config.shard[0], plan.describe(), check_store) as store,
    ):
        run = EvaluationRun(
            config, classifier, plan.methods, plan.metrics, store, plan.external_maps, ResultCount(on_results)
        )
        yield from run.evaluate(select_shard(plan.items, *config.shard), on_progress)


@dataclass(frozen=True, eq=False)
class EvaluationRun:
    """State shared by all batches of a run. external_maps: evaluated next to the methods. results: counts stored values."""

    config: EvaluateConfig
    classifier: Classifier
    methods: Sequence[MethodRun]
    metrics: Sequence[MetricRun]
    store: RunStore
    external_maps: Sequence[ExternalMaps] = ()
    results: ResultCount = field(default_factory=ResultCount)

    @property
    def sources(self) -> list[Source]:
        """What is evaluated."""
        return [*self.methods, *self.external_maps]

    @cached_property
    def target_spec(self) -> TargetSpec:
        """Specification of the class to explain for each image."""
        return TargetSpec.parse(self.config.target, None, self.classifier)

    @cached_property
    def marks(self) -> dict[tuple[str, str], str]:
        """Digests of the settings and versions of each pair of method (or external maps) and metric."""
        return {
            (source.label, metric.label): settings_digest(source.describe(), metric.describe())
            for source in self.sources
            for metric in self.metrics
        }

    @cached_property
    def map_marks(self) -> dict[str, str]:
        """A digest of the settings of each method."""
        return {method.label: map_digest(method.describe()) for method in self.methods}

    @cached_property
    def maps(self) -> ArrayStore:
        """Store for the raw attributions, which is disabled if they are not saved."""
        return ArrayStore(self.config.output / "maps" if self.config.save_maps else None, "attribution")

    @cached_property
    def curves(self) -> ArrayStore:
        """Store for the full curves, which is disabled if they are not saved."""
        return ArrayStore(self.config.output / "curves" if self.config.save_curves else None, "curve")

    def is_missing(self, key: str, source: Source) -> bool:
        """Return whether a map, value or curve of an item is missing."""
        if isinstance(source, MethodRun) and self.maps.is_missing(key, source.label, self.map_marks[source.label]):
            return True
        return any(self._is_metric_missing(key, source, metric) for metric in self.metrics)

    def _is_metric_missing(self, key: str, source: Source, metric: MetricRun) -> bool:
        mark = self.marks[source.label, metric.label]
        if not self.store.has(key, mark):
            return True
        return self.store.has_curve(key, mark) and self.curves.is_missing(key, _curve_label(source, metric), mark)

    def evaluate(self, items: Sequence[Item], on_progress: OnProgress) -> Iterator[Failure]:
        """Compute the missing results batch by batch and yield the failed images.

        Each batch is written as a unit and starts at the first unfinished item; failed items come last. A resumed run therefore forms the
        same batches as an uninterrupted run, and its results are bit-identical.
        """
        for maps in self.external_maps:
            maps.keep_results([item.key for item in items], self.store)
        unfinished = [item for item in items if any(self.is_missing(item.key, source) for source in self.sources)]
        todo = sorted(unfinished, key=lambda item: self.store.has(item.key, "failed"))
        done = len(items) - len(todo)
        on_progress(done, len(items))
        kept = sum(self.store.has(item.key, mark) for item in items for mark in self.marks.values())
        self.results.start(kept, len(items) * len(self.marks))
        size = largest_group(self.sources, self.classifier, self.config.compute)
        needs_labels = self.config.target == "label"
        first = self._find_first_method(todo)
        for failures, batch in predict_batches(
            self.classifier, todo, self.config.compute, size=size, needs_labels=needs_labels, first=first
        ):
            if batch is not None:
                rows = self.rows_per_image * len(batch.items)
                yield from self.evaluate_batch(batch, RowCounter(on_progress, done, len(batch.items), len(items), rows))
            self._store_failures(failures)
            yield from failures
            done += len(failures) + (0 if batch is None else len(batch.items))
            on_progress(done, len(items))

    def _find_first_method(self, items: Sequence[Item]) -> MethodRun | None:
        """Return the method that runs first on every batch of the items, or None if it is finished for some of them."""
        first = self.methods[0] if self.methods else None
        if first is None or not all(self.is_missing(item.key, first) for item in items):
            return None
        return first

    def _store_failures(self, failures: Sequence[Failure]) -> None:
        new = [failure for failure in failures if not self.store.has(failure.name, "failed")]
        self.store.append([{"key": f.name, "mark": "failed", "error": str(f.error)} for f in new])

    @cached_property
    def rows_per_image(self) -> int:
        """The maximum number of model rows that all methods and metrics need for an image."""
        side = max(self.classifier.size)
        measured = sum(metric.spec.forwards(side=side, **metric.settings) for metric in self.metrics)
        return sum(_attribution_rows(source) + measured for source in self.sources)

    def evaluate_batch(self, batch: PredictedBatch, counter: RowCounter) -> Iterator[Failure]:
        """Run each method on the images with missing results, and evaluate the metrics. Yield the external maps that cannot be used."""
        check_loaded_items(self.store, batch.items, batch.loaded)
        self._store_items(batch)
        (targeted,) = batch.for_targets(self.target_spec, self.classifier)
        for source in self.sources:
            missing = [i for i, item in enumerate(batch.items) if self.is_missing(item.key, source)]
            for part in targeted.parts(source, self.classifier, self.config.compute, missing):
                if isinstance(source, MethodRun):
                    attribution = self._load_maps(source, part) or self._attribute(source, part, counter)
                    if batch.shared is not None:
                        batch.shared.release()
                    self._run_metrics(source, part, attribution, counter)
                else:
                    yield from self._evaluate_maps(source, part, counter)

    def _store_items(self, batch: PredictedBatch) -> None:
        """Store the results that do not depend on the method: hash, label and prediction of each image."""
        predictions = describe_items(self.classifier, batch.items, batch.logits)
        records = [
            {
                "key": item.key,
                "mark": "item",
                "sha256": loaded.digest,
                "label": item.label,
                **prediction,
                "file": loaded.state,
            }
            | ({} if loaded.stored is None else {"pixels": loaded.stored})
            for item, loaded, prediction in zip(batch.items, batch.loaded, predictions, strict=True)
        ]
        self.store.append([record for record in records if not self.store.has(record["key"], "item")])

    def _run_metrics(self, source: Source, batch: TargetedBatch, attribution: Attribution, counter: RowCounter) -> None:
        """Evaluate the missing metrics of images that share a forward pass on their attributions."""
        keys = tuple(item.key for item in batch.items)
        sizes = tuple(loaded.size for loaded in batch.loaded)
        metrics = [m for m in self.metrics if any(self._is_metric_missing(key, source, m) for key in keys)]
        records, described = [], attribution.with_details_on_cpu()
        for result in run_metrics(
            source,
            metrics,
            self.classifier,
            batch.images,
            attribution,
            self.config.compute,
            tuple(item.image_key for item in batch.items),
            sizes,
            counter.advance,
            batch.cpu_images,
            tuple(loaded.orientation for loaded in batch.loaded),
        ):
            mark = self.marks[source.label, result.metric_run.label]
            for i, key in enumerate(keys):
                record = self._describe_value(source, result, batch, described, i)
                self._save_curve(source, result, record, i)
                if not self.store.has(key, mark):
                    records.append(record)
        self.store.append(records)
        self.results.add(len(records))

    def _evaluate_maps(self, maps: ExternalMaps, batch: TargetedBatch, counter: RowCounter) -> Iterator[Failure]:
        """Run the metrics on external maps; a map that cannot be used is a failure, and its values are undefined."""
        errors, groups = maps.load(batch, self.classifier)
        for index, attribution in groups:
            self._run_metrics(maps, batch.select(index), attribution, counter)
        records = []
        for i, error in errors.items():
            key, attribution = batch.items[i].key, maps.unusable(batch.select([i]))
            for metric in self.metrics:
                result = MetricResult.of_unusable_map(metric, error.reason)
                record = self._describe_value(maps, result, batch.select([i]), attribution, 0)
                if not self.store.has(key, record["mark"]):
                    records.append(record | {"error": str(error)})
        self.store.append(records)
        self.results.add(len(records))
        yield from (Failure(batch.items[i].key, error) for i, error in errors.items())

    def _describe_value(
        self, source: Source, result: MetricResult, batch: TargetedBatch, attribution: Attribution, i: int
    ) -> dict[str, Any]:
        """Return the record of one value. ``map_mark`` is a digest of the settings with the content of the item's map only."""
        key, metric = batch.items[i].key, result.metric_run
        record = {
            "key": key,
            "mark": self.marks[source.label, metric.label],
            "method": source.label,
            "metric": metric.label,
            **result.read(i),
            "target": batch.classes[i],
            "cost": describe_cost(attribution, i),
        }
        if isinstance(source, ExternalMaps):
            record["map_mark"] = settings_digest(source.describe_item(key), metric.describe())
        return record

    def _save_curve(self, source: Source, result: MetricResult, record: dict[str, Any], i: int) -> None:
        """Save the full curve of a value if the value has a curve and curves are saved."""
        if record["curve"] is None or result.score.curve is None:
            return
        metric = result.metric_run
        entries = {key: record[key] for key in ("key", "mark", "method", "metric")}
        entries |= source.describe() | metric.describe() | {"value": record["value"]}
        curve = result.score.curve[i].float().numpy()
        self.curves.save(record["key"], _curve_label(source, metric), record["mark"], curve, entries)

    def _attribute(self, method: MethodRun, batch: TargetedBatch, counter: RowCounter) -> Attribution:
        """Run the method, and save its maps if requested."""
        result = method.attribute(
            self.classifier,
            batch.images,
            batch.targets,
            self.config.compute,
            logits=batch.logits,
            on_rows=counter.advance,
            drawn_for=batch.cpu_images,
            shared=batch.shared,
        )
        if self.config.save_maps:
            self._save_maps(method, batch, result.cpu())
        return result

    def _save_maps(self, method: MethodRun, batch: TargetedBatch, result: Attribution) -> None:
        """Save attributions, which are on the CPU."""
        for i, item in enumerate(batch.items):
            record = {
                "key": item.key,
                "sha256": batch.loaded[i].digest,
                **method.describe(),
                "model": {"name": self.classifier.name, "weights": asdict(self.classifier.weights)},
                "seed": self.config.compute.seed,
                "target": self.classifier.class_names.describe(batch.classes[i]),
                "expected": None if result.expected is None else float(result.expected[i]),
                "cost": describe_cost(result, i),
                "warnings": list_flags(result, i),
            }
            values = result.values[i].float().numpy()
            self.maps.save(item.key, method.label, self.map_marks[method.label], values, record)

    def _load_maps(self, method: MethodRun, batch: TargetedBatch) -> Attribution | None:
        """Load the saved maps of the images. Return None unless all maps exist and are bit-identical to what the method would compute."""
        if batch.images.dtype != torch.float32:
            return None
        values, records = [], []
        for item, loaded, target in zip(batch.items, batch.loaded, batch.classes, strict=True):
            saved = self.maps.load(item.key, method.label, self.map_marks[method.label])
            if saved is None or (saved[1]["sha256"], saved[1]["target"]["index"]) != (loaded.digest, target):
                return None
            values.append(torch.from_numpy(saved[0]))
            records.append(saved[1])
        device = batch.images.device
        expected = [record["expected"] for record in records]
        costs = [record["cost"] for record in records]
        return Attribution(
            torch.stack(values).to(device),
            batch.targets,
            Cost(seconds=sum(cost["seconds"] for cost in costs)),
            None if None in expected else torch.tensor(expected, dtype=torch.float64, device=device),
            {name: torch.tensor([cost[name] for cost in costs]) for name in costs[0] if name != "seconds"},
        )


def _attribution_rows(source: Source) -> int:
    """Return the maximum number of model rows that the attribution of an image takes, 0 for external maps."""
    return source.rows_per_image if isinstance(source, MethodRun) else 0


def _curve_label(source: Source, metric: MetricRun) -> str:
    return f"{source.label} {metric.label}"
