"""Implementation of ``xplain compare IMAGE...``: run, score and render every method on every image and model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xplain.core.array_store import ArrayStore
from xplain.core.config import Choice, CompareConfig
from xplain.core.errors import Failure, InputError, UsageError, XplainError, did_you_mean
from xplain.core.files import lock_directory
from xplain.core.registry import METHODS
from xplain.core.run_store import fingerprint
from xplain.core.types import Attribution
from xplain.data.file_index import FileIndex
from xplain.data.images import sha256
from xplain.data.sources import ImageSource, find_images
from xplain.models import Classifier
from xplain.oracle.runtime import inference_session, load_model
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.attribution import MethodRun, check_methods, label_of, resolve_methods
from xplain.pipelines.batches import PredictedBatch, TargetedBatch, largest_group, make_items, predict_batches
from xplain.pipelines.measurement import MetricRun, check_metrics, resolve_metrics, run_metrics
from xplain.pipelines.predictions import Prediction
from xplain.pipelines.progress import OnProgress, ProgressCounter
from xplain.pipelines.records import describe_explanation, describe_run, fingerprinted, is_current
from xplain.reports.agreement import draw_agreement
from xplain.reports.band_pictures import describe_shown_bands, show_bands
from xplain.reports.comparison import Cell, Comparison, Row, describe_comparison
from xplain.reports.comparison_figure import PICTURE_TITLES, draw_comparison
from xplain.reports.comparison_files import RECORD, check_folder, choose_folder, discard, finish, load_existing, start
from xplain.reports.comparison_page import make_comparison_page
from xplain.reports.figures import check_formats
from xplain.reports.render import get_colormap, render_warnings

OnFailure = Callable[[Failure], None]
ROW_KEYS = ("input", "sha256", "target", "prediction", "decided")  # stored once per row, not in every cell


def write_comparison(config: CompareConfig, on_progress: OnProgress, on_failure: OnFailure) -> dict[str, Any] | None:
    """Compare methods on images and write the figures, the page and the record. Return the record, or None if everything failed.

    A finished comparison is not repeated, and an interrupted comparison is resumed. ``on_progress`` counts model rows.
    ``on_failure`` is called for each failure and may raise it. Raises XplainError if the whole request is invalid.
    """
    formats = ("png", *config.formats)
    columns = len(config.methods) * max(len(config.against), 1)
    stems = ("compare", "agreement") if columns > 1 else ("compare",)
    names = [f"{stem}.{extension}" for stem in stems for extension in formats] + ["compare.html"]
    check_folder(config.output, names, config.overwrite)
    run = ComparisonRun.load(config)
    if config.any_folder:
        config = replace(config, output=choose_folder(config.output, run.fingerprint))
    with lock_directory(config.output):
        if record := load_existing(config.output, names, run.fingerprint, config.overwrite):
            run.check_existing(record)
            return record
        cells = ArrayStore(start(config.output, run.fingerprint), "values")
        comparison = run.compare(cells, on_progress, on_failure)
        if not any(cell for row in comparison.rows for cell in row.cells):
            discard(config.output)
            return None
        paths = [str(config.output / name) for name in (*names, RECORD)]
        record = describe_comparison(comparison, run.fingerprint, paths)
        figures = draw_comparison(comparison, config.shows, formats)
        contents = {f"compare.{extension}": content for extension, content in figures.items()}
        if columns > 1:
            for extension, content in draw_agreement(record, formats).items():
                contents[f"agreement.{extension}"] = content
        contents["compare.html"] = make_comparison_page(comparison, record).encode()
        finish(config.output, contents, record)
    return record


def _check_request(config: CompareConfig) -> None:
    """Raise UsageError if the request is invalid, before a model is loaded."""
    get_colormap(config.render.colormap)
    check_formats(config.formats)
    for show in config.shows:
        if show not in PICTURE_TITLES:
            hint = did_you_mean(show, PICTURE_TITLES, f"choose from {', '.join(PICTURE_TITLES)}")
            raise UsageError(f"unknown value {show!r} for --show", hint)
    check_methods(config.methods, config.layer, config.layout)
    if not config.measured and (config.metrics or config.protocol):
        raise UsageError("--no-metrics cannot be combined with --metric or --protocol", "remove one of them")
    if len(config.models) > 1 and (config.model.weights or config.model.classes):
        raise UsageError("--weights and --classes can be used with one model only", "pass a single --model")


def _resolve_metrics(config: CompareConfig) -> list[MetricRun]:
    """Resolve the metrics. Raise UsageError if a metric requires a dataset or does not support --against."""
    if not config.measured:
        return []
    metrics = resolve_metrics(config.protocol, config.metrics)
    for metric in metrics:
        if metric.spec.scope != "image":
            raise UsageError(f"{metric.label} requires a dataset", "use xplain evaluate")
        if config.against and "explain" in metric.spec.needs:
            raise UsageError(f"{metric.label} does not support --against", "remove one of them")
    return metrics


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
class ComparisonRun:
    """A comparison that is ready to run."""

    config: CompareConfig
    columns: Sequence[MethodColumn]
    metrics: Sequence[MetricRun]
    sources: Sequence[ImageSource]
    models: Sequence[ModelComparison]

    @classmethod
    def load(cls, config: CompareConfig) -> ComparisonRun:
        """Check the request, find the images and load the models. Raises an XplainError."""
        _check_request(config)
        metrics = _resolve_metrics(config)
        columns = [
            MethodColumn.make(choice, against) for choice in config.methods for against in config.against or (None,)
        ]
        sources = find_images(config.inputs, config.files_from, null=config.null, output=config.output)
        index = FileIndex(Path(), [source.name for source in sources])
        models = [ModelComparison.load(config, name, columns, metrics, index) for name in config.models]
        return cls(config, columns, metrics, sources, models)

    @property
    def fingerprint(self) -> str:
        """Digest of everything that affects the results: settings, models and image files."""
        config = self.config
        models = [fingerprinted(model.facts) for model in self.models]
        methods = [[method.describe() for method in model.methods] for model in self.models]
        metrics = [metric.describe() for metric in self.metrics]
        bands = [config.pixels.bands] if config.pixels.bands else []
        request = (config.target, config.against, asdict(config.render), config.shows, *bands)
        digests = [(source.name, _hash_source(source)) for source in self.sources]
        return fingerprint(models, methods, metrics, request, digests)

    def check_existing(self, record: Mapping[str, Any]) -> None:
        """Raise UsageError if a finished comparison has other class names or baseline images."""
        models = {model.classifier.name: model for model in self.models}
        for row in record["rows"]:
            model = models[row["model"]]
            is_same = is_current(row, model.classifier) and all(
                cell is None or is_current(cell, model.classifier, method)
                for cell, method in zip(row["cells"], model.methods, strict=True)
            )
            if not is_same:
                raise UsageError(
                    f"{str(self.config.output)!r} holds a comparison with other class names or baseline images",
                    "use --overwrite or choose another --output",
                )

    def compare(self, cells: ArrayStore, on_progress: OnProgress, on_failure: OnFailure) -> Comparison:
        """Compute all cells. Rows are ordered by image, then model, then target.

        cells: store for finished cells, from which an interrupted comparison is resumed.
        """
        images = len(self.sources)
        counter = ProgressCounter(on_progress, images * sum(model.rows_per_image for model in self.models))
        existing = Counter(cells.labels())
        for model in self.models:
            counter.skip(model.count_existing_rows(existing, images))
        counter.advance(0)
        order = {id(source): position for position, source in enumerate(self.sources)}
        rows, failed = list[tuple[int, int, Row]](), list[Failure]()
        for number, model in enumerate(self.models):
            for result in model.compare(self.sources, cells, counter):
                if isinstance(result, Failure):
                    failed.append(result)
                    on_failure(result)
                else:
                    source, row = result
                    rows.append((order[id(source)], number, row))
        rows.sort(key=lambda entry: entry[:2])
        return Comparison(
            tuple(column.label for column in self.columns),
            {metric.label: metric.describe() for metric in self.models[0].metrics},
            [row for _, _, row in rows],
            failed,
            self.config.render,
            {model.classifier.name: model.facts for model in self.models},
        )


def _hash_source(source: ImageSource) -> str:
    """Return the SHA-256 digest of an image file, or "" if it cannot be read."""
    try:
        return sha256(source.read())
    except InputError:
        return ""


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """The part of a comparison for one model. target_specs, methods: one per column. facts: common record entries of the run."""

    config: CompareConfig
    classifier: Classifier
    target_specs: Sequence[TargetSpec]
    methods: Sequence[MethodRun]
    metrics: Sequence[MetricRun]
    facts: dict[str, Any]

    @classmethod
    def load(
        cls,
        config: CompareConfig,
        name: str,
        columns: Sequence[MethodColumn],
        metrics: Sequence[MetricRun],
        index: FileIndex,
    ) -> ModelComparison:
        """Load the model, resolve the methods, and find the boxes and masks of the images, if a metric reads them."""
        classifier = load_model(replace(config.model, name=name), config.pixels, config.target)
        check_metrics(metrics, classifier)
        target_specs = [TargetSpec.parse(config.target, column.against, classifier) for column in columns]
        choices = [column.choice for column in columns]
        methods = resolve_methods(choices, config.score, classifier, config.layer, config.layout)
        facts = describe_run(config.compute, classifier)
        metrics = [metric.for_output(classifier.output) for metric in metrics]
        metrics = [metric.with_annotations(index, classifier.class_names) for metric in metrics]
        return cls(config, classifier, target_specs, methods, metrics, facts)

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
        return method.rows_per_image + self.measured_rows

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
        self, sources: Sequence[ImageSource], cells: ArrayStore, counter: ProgressCounter
    ) -> Iterator[Failure | tuple[ImageSource, Row]]:
        """Yield failures, and finished rows with their image sources."""
        needs_labels = self.target_specs[0].kind == "label"
        items, unlabeled = make_items(sources, self.classifier.class_names, needs_labels=needs_labels)
        yield from unlabeled
        counter.skip(self.rows_per_image * len(unlabeled))
        size = largest_group(self.methods, self.classifier, self.config.compute)
        with inference_session(self.classifier):
            for failures, batch in predict_batches(
                self.classifier, items, self.config.compute, size=size, needs_labels=needs_labels
            ):
                yield from failures
                counter.skip(self.rows_per_image * len(failures))
                if batch is not None:
                    yield from self._compare_batch(batch, cells, counter)

    def _compare_batch(
        self, batch: PredictedBatch, cells: ArrayStore, counter: ProgressCounter
    ) -> Iterator[Failure | tuple[ImageSource, Row]]:
        """Explain every target with every column. Yield the failures and then the rows of each target."""
        columns_by_target = [batch.for_targets(target_spec, self.classifier) for target_spec in self.target_specs]
        for columns in zip(*columns_by_target, strict=True):  # the same target in every column
            cells_of_columns = list[list[Cell | None]]()
            for method, targeted in zip(self.methods, columns, strict=True):
                column = list[Cell | None]()
                for part in targeted.parts(method, self.classifier, self.config.compute):
                    for result in self._compare_part(method, part, cells, counter):
                        if isinstance(result, Failure):
                            yield result
                        column.append(None if isinstance(result, Failure) else result)
                cells_of_columns.append(column)
            for i, item in enumerate(batch.items):
                image = show_bands(batch.images[i].float().cpu().numpy(), self.config.pixels.bands)
                record = self._describe_row(batch, i, int(columns[0].targets[i]))
                yield item.source, Row(record, image, [column[i] for column in cells_of_columns])

    def _describe_row(self, batch: PredictedBatch, i: int, target: int) -> dict[str, Any]:
        """Return the entries of a row that do not depend on the method."""
        prediction = Prediction(self.classifier, batch.logits[i])
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
        self, method: MethodRun, batch: TargetedBatch, cells: ArrayStore, counter: ProgressCounter
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
            result = method.attribute(
                self.classifier,
                batch.images,
                batch.targets,
                self.config.compute,
                contrasts=batch.contrasts,
                on_rows=counter.advance,
            )
            scores = self._score(method, batch, result, names, counter)
        except (InputError, UsageError) as error:  # a method may support only some of the models
            yield from (Failure(name, _name_method(method, error)) for name in names)
            return
        finally:
            counter.finish_part()
        for i, name in enumerate(names):
            if not bool(result.values[i].isfinite().all()):
                reason = InputError(
                    f"the attributions of {name!r} contain NaN or infinity", "check the weights or use --precision fp32"
                )
                yield Failure(name, _name_method(method, reason))
                continue
            values = result.values[i].float().cpu().numpy()
            record = self._describe_cell(method, batch, result, i)
            record["warnings"] += render_warnings(values, self.config.render)
            record |= {"scores": scores[i]}
            cells.save(name, method.label, marks[i], values, record)
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
                tuple(loaded.orientation for loaded in batch.loaded),
            )
        )
        return [{score.metric_run.label: score.read(i, None) for score in results} for i in range(len(batch))]

    def _mark(self, method: MethodRun, batch: TargetedBatch, i: int) -> str:
        """Return a digest of everything that affects a cell."""
        metrics = [metric.describe() for metric in self.metrics]
        request = (metrics, asdict(self.config.render), int(batch.targets[i]), batch.contrasts_of(i))
        return fingerprint(fingerprinted(self.facts), method.describe(), request, batch.loaded[i].digest)

    def _describe_cell(self, method: MethodRun, batch: TargetedBatch, result: Attribution, i: int) -> dict[str, Any]:
        """Return the record of a cell without its scores and without the entries of its row."""
        record = describe_explanation(self.classifier, method, batch, result, i)
        return {key: value for key, value in record.items() if key not in ROW_KEYS}


def _name_method(method: MethodRun, error: XplainError) -> XplainError:
    """Return the error with the method's label prepended to its message."""
    return type(error)(f"{method.label}: {error}")
