"""Explain and score the images of a comparison with every method on one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from xplain.core.array_store import ArrayStore
from xplain.core.config import Choice, CompareConfig
from xplain.core.errors import Failure, InputError, UsageError, XplainError
from xplain.core.registry import METHODS
from xplain.core.run_store import fingerprint
from xplain.core.types import Attribution
from xplain.data.file_index import FileIndex
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.oracle.engine_choice import choose_engine
from xplain.oracle.engines import Engine
from xplain.oracle.runtime import inference_session, load_model
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.attribution import label_of, resolve_methods
from xplain.pipelines.batch_attribution import attribute_batch
from xplain.pipelines.batches import PredictedBatch, TargetedBatch, largest_group, make_items, predict_batches
from xplain.pipelines.measurement import check_metrics
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricRun, run_metrics
from xplain.pipelines.planned_rows import plan_rows
from xplain.pipelines.predictions import Prediction
from xplain.pipelines.progress import ProgressCounter, ResultCount
from xplain.pipelines.records import describe_explanation, describe_run, fingerprinted, is_current
from xplain.pipelines.stability import count_stability_rows
from xplain.reports.band_pictures import describe_shown_bands, show_bands
from xplain.reports.comparison import Cell, Row
from xplain.reports.render import render_warnings

ROW_KEYS = ("input", "sha256", "target", "prediction", "decided")  # stored once per row, not in every cell


@dataclass(frozen=True)
class MethodColumn:
    """A column of the comparison: a method and its contrast classes, if any. label: column heading."""

    choice: Choice
    against: str | None
    label: str

    @classmethod
    def make(cls, choice: Choice, against: str | None) -> MethodColumn:
        """Make a column with the heading ``agi:steps=10 vs tabby``."""
        label = label_of(choice, METHODS.get(choice.name).name)
        return cls(choice, against, label if against is None else f"{label} vs {against}")


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """The part of a comparison for one model.

    target_specs, methods: one per column. facts: common record entries of the run. engine: what computes the model; None: PyTorch.
    """

    config: CompareConfig
    classifier: Classifier
    target_specs: Sequence[TargetSpec]
    methods: Sequence[MethodRun]
    metrics: Sequence[MetricRun]
    facts: dict[str, Any]
    engine: Engine | None = None

    @classmethod
    def load(
        cls,
        config: CompareConfig,
        name: str,
        columns: Sequence[MethodColumn],
        metrics: Sequence[MetricRun],
        index: FileIndex,
        images: int,
    ) -> ModelComparison:
        """Load the model, resolve the methods, and find the boxes and masks of the images, if a metric reads them.

        images: their number.
        """
        classifier = load_model(replace(config.model, name=name), config.pixels, config.target)
        check_metrics(metrics, classifier)
        target_specs = [TargetSpec.parse(config.target, column.against, classifier) for column in columns]
        choices = [column.choice for column in columns]
        methods = resolve_methods(choices, config.score, classifier, config.layer, config.layout)
        metrics = [metric.for_output(classifier.output) for metric in metrics]
        metrics = [metric.with_annotations(index, classifier.class_names) for metric in metrics]
        rows = plan_rows(classifier, methods, metrics).times(images * target_specs[0].count)
        engine = choose_engine(classifier, config.compute.engine, config.compute.precision, rows)
        facts = describe_run(config.compute, classifier, engine)
        return cls(config, classifier, target_specs, methods, metrics, facts, engine)

    @cached_property
    def measured_rows(self) -> int:
        """The maximum number of model rows that the metrics of a cell need."""
        side = max(self.classifier.size)
        return sum(metric.spec.forwards(side=side, **metric.settings) for metric in self.metrics)

    @property
    def rows_per_image(self) -> int:
        """The maximum number of model rows that the cells of an image need."""
        return self.target_specs[0].count * sum(self._rows_per_cell(method) for method in self.methods)

    def _rows_per_cell(self, method: MethodRun) -> int:
        return method.rows_per_image + count_stability_rows(self.config.stability, method) + self.measured_rows

    def count_existing_rows(self, existing: Counter[str], images: int) -> int:
        """Return the model rows of cells that exist, and remove these from the numbers of cells by label.

        Models come one after the other, so that the cells of the first model exist first.
        """
        rows = 0
        for method in self.methods:
            label = ArrayStore.name_label(method.label)
            count = min(existing[label], images * self.target_specs[0].count)
            existing[label] -= count
            rows += count * self._rows_per_cell(method)
        return rows

    def compare(
        self, sources: Sequence[ImageSource], cells: ArrayStore, counter: ProgressCounter, results: ResultCount
    ) -> Iterator[Failure | tuple[ImageSource, Row]]:
        """Yield failures, and finished rows with their image sources."""
        needs_labels = self.target_specs[0].kind == "label"
        items, unlabeled = make_items(sources, self.classifier.class_names, needs_labels=needs_labels)
        yield from unlabeled
        counter.skip(self.rows_per_image * len(unlabeled))
        size = largest_group(self.methods, self.classifier, self.config.compute)
        with inference_session(self.classifier, self.engine):
            for failures, batch in predict_batches(
                self.classifier, items, self.config.compute, size=size, needs_labels=needs_labels
            ):
                yield from failures
                counter.skip(self.rows_per_image * len(failures))
                if batch is not None:
                    yield from self._compare_batch(batch, cells, counter, results)

    def _compare_batch(
        self, batch: PredictedBatch, cells: ArrayStore, counter: ProgressCounter, results: ResultCount
    ) -> Iterator[Failure | tuple[ImageSource, Row]]:
        """Explain every target with every column. Yield the failures and then the rows of each target."""
        columns_by_target = [batch.for_targets(target_spec, self.classifier) for target_spec in self.target_specs]
        for columns in zip(*columns_by_target, strict=True):  # the same target in every column
            cells_of_columns = list[list[Cell | None]]()
            for method, targeted in zip(self.methods, columns, strict=True):
                column = list[Cell | None]()
                for part in targeted.parts(method, self.classifier, self.config.compute):
                    for result in self._compare_part(method, part, cells, counter, results):
                        if isinstance(result, Failure):
                            yield result
                        column.append(None if isinstance(result, Failure) else result)
                cells_of_columns.append(column)
            for i, item in enumerate(batch.items):
                image = show_bands(batch.cpu_images[i].float().numpy(), self.config.pixels.bands)
                record = self._describe_row(batch, i, columns[0].classes[i])
                yield item.source, Row(record, image, [column[i] for column in cells_of_columns])

    def _describe_row(self, batch: PredictedBatch, i: int, target: int) -> dict[str, Any]:
        """Return the entries of a row that do not depend on the method."""
        prediction = Prediction(self.classifier, batch.cpu_logits[i])
        return {
            "input": batch.loaded[i].source.name,
            "sha256": batch.loaded[i].digest,
            "model": self.classifier.name,
            "target": prediction.describe_class(target),
            "prediction": prediction.describe_top(),
            **prediction.describe_decisions(),
            **describe_shown_bands(self.classifier.input_channels, self.config.pixels.bands),
        }

    def _compare_part(
        self,
        method: MethodRun,
        batch: TargetedBatch,
        cells: ArrayStore,
        counter: ProgressCounter,
        results: ResultCount,
    ) -> Iterator[Cell | Failure]:
        """Yield a cell or a failure for each image of one column.

        Images that share a forward pass are always computed together unless all of them are finished. The results are therefore
        bit-identical to those of an uninterrupted comparison.
        """
        names = tuple(loaded.source.name for loaded in batch.loaded)
        marks = [self._mark(method, batch, i) for i in range(len(batch))]
        saved = [cells.load(name, method.label, mark) for name, mark in zip(names, marks, strict=True)]
        if all(entry and is_current(entry[1], self.classifier, method) for entry in saved):
            yield from (Cell(entry[1], entry[0]) for entry in saved if entry)
            return
        counter.start_part(self._rows_per_cell(method) * sum(entry is None for entry in saved))
        try:
            result = attribute_batch(
                method,
                self.classifier,
                batch,
                self.config.compute,
                self.config.stability,
                self.config.render,
                counter.advance,
            )
            scores = self._score(method, batch, result, names, counter)
        except (InputError, UsageError) as error:  # a method may support only some of the models
            yield from (Failure(name, _name_method(method, error)) for name in names)
            return
        finally:
            counter.finish_part()
        result = result.cpu()
        for i, name in enumerate(names):
            if not bool(result.values[i].isfinite().all()):
                reason = InputError(
                    f"the attributions of {name!r} contain NaN or infinity", "check the weights or use --precision fp32"
                )
                yield Failure(name, _name_method(method, reason))
                continue
            values = result.values[i].float().numpy()
            record = self._describe_cell(method, batch, result, i)
            record["warnings"] += render_warnings(values, self.config.render)
            record |= {"scores": scores[i]}
            cells.save(name, method.label, marks[i], values, record)
            results.add(saved[i] is None)
            yield Cell(record, values)

    def _score(
        self,
        method: MethodRun,
        batch: TargetedBatch,
        result: Attribution,
        names: tuple[str, ...],
        counter: ProgressCounter,
    ) -> list[dict[str, Any]]:
        """Return, for each image, the scores by metric, with full curves."""
        sizes = tuple(loaded.size for loaded in batch.loaded)
        results = list(
            run_metrics(
                method,
                self.metrics,
                self.classifier,
                batch.images,
                result,
                self.config.compute,
                names,
                sizes,
                counter.advance,
                batch.cpu_images,
                tuple(loaded.orientation for loaded in batch.loaded),
            )
        )
        return [{score.metric_run.label: score.read(i, None) for score in results} for i in range(len(batch))]

    def _mark(self, method: MethodRun, batch: TargetedBatch, i: int) -> str:
        """Return a digest of everything that affects a cell."""
        metrics = [metric.describe() for metric in self.metrics]
        stability = [] if self.config.stability == "off" else [self.config.stability]
        request = (metrics, asdict(self.config.render), batch.classes[i], batch.contrasts_of(i), *stability)
        return fingerprint(fingerprinted(self.facts), method.describe(), request, batch.loaded[i].digest)

    def _describe_cell(self, method: MethodRun, batch: TargetedBatch, result: Attribution, i: int) -> dict[str, Any]:
        """Return the record of a cell without its scores and without the entries of its row."""
        record = describe_explanation(self.classifier, method, batch, result, i)
        return {key: value for key, value in record.items() if key not in ROW_KEYS}


def _name_method(method: MethodRun, error: XplainError) -> XplainError:
    """Return the error with the method's label prepended to its message."""
    return type(error)(f"{method.label}: {error}")
