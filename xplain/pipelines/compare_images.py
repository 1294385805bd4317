"""Implementation of ``xplain compare IMAGE...``: run, score and render every method on every image and model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xplain.core.array_store import ArrayStore
from xplain.core.config import CompareConfig
from xplain.core.errors import Failure, InputError, UsageError, did_you_mean
from xplain.core.files import lock_directory
from xplain.core.run_store import fingerprint
from xplain.data.file_index import FileIndex
from xplain.data.images import sha256
from xplain.data.sources import ImageSource, find_images
from xplain.pipelines.attribution import check_methods
from xplain.pipelines.measurement import resolve_metrics
from xplain.pipelines.metric_run import MetricRun
from xplain.pipelines.model_comparison import MethodColumn, ModelComparison
from xplain.pipelines.progress import OnProgress, OnResults, ProgressCounter, ResultCount, ignore_results
from xplain.pipelines.records import fingerprinted, is_current
from xplain.reports.agreement import draw_agreement
from xplain.reports.comparison import Comparison, Row, describe_comparison
from xplain.reports.comparison_figure import PICTURE_TITLES, draw_comparison
from xplain.reports.comparison_files import RECORD, check_folder, choose_folder, discard, finish, load_existing, start
from xplain.reports.comparison_page import make_comparison_page
from xplain.reports.figures import check_formats
from xplain.reports.render import get_colormap

OnFailure = Callable[[Failure], None]


def write_comparison(
    config: CompareConfig, on_progress: OnProgress, on_failure: OnFailure, on_results: OnResults = ignore_results
) -> dict[str, Any] | None:
    """Compare methods on images and write the figures, the page and the record. Return the record, or None if everything failed.

    A finished comparison is not repeated, and an interrupted comparison is resumed. ``on_progress`` counts model rows, and ``on_results``
    cells: maps of a method with their scores. ``on_failure`` is called for each failure and may raise it. Raises XplainError if the whole
    request is invalid.
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
        comparison = run.compare(cells, on_progress, on_failure, ResultCount(on_results))
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
        models = [ModelComparison.load(config, name, columns, metrics, index, len(sources)) for name in config.models]
        return cls(config, columns, metrics, sources, models)

    @property
    def fingerprint(self) -> str:
        """Digest of everything that affects the results: settings, models and image files."""
        config = self.config
        models = [fingerprinted(model.facts) for model in self.models]
        methods = [[method.describe() for method in model.methods] for model in self.models]
        metrics = [metric.describe() for metric in self.metrics]
        bands = [config.pixels.bands] if config.pixels.bands else []
        stability = [] if config.stability == "off" else [{"stability": config.stability}]
        request = (config.target, config.against, asdict(config.render), config.shows, *bands, *stability)
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

    def compare(
        self, cells: ArrayStore, on_progress: OnProgress, on_failure: OnFailure, results: ResultCount
    ) -> Comparison:
        """Compute all cells. Rows are ordered by image, then model, then target.

        cells: store for finished cells, from which an interrupted comparison is resumed.
        """
        images = len(self.sources)
        counter = ProgressCounter(on_progress, images * sum(model.rows_per_image for model in self.models))
        existing = Counter(cells.labels())
        total = images * sum(model.target_specs[0].count * len(model.methods) for model in self.models)
        results.start(min(existing.total(), total), total)
        for model in self.models:
            counter.skip(model.count_existing_rows(existing, images))
        counter.advance(0)
        order = {id(source): position for position, source in enumerate(self.sources)}
        rows, failed = list[tuple[int, int, Row]](), list[Failure]()
        for number, model in enumerate(self.models):
            for result in model.compare(self.sources, cells, counter, results):
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
