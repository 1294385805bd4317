"""Implementation of ``xplain explain``: find images, predict, attribute, render and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from xplain.core.config import ExplainConfig
from xplain.core.errors import Failure, InputError, UsageError
from xplain.core.options import PictureOptions
from xplain.core.registry import METHODS
from xplain.core.run_store import fingerprint
from xplain.core.types import Attribution
from xplain.data.datasets import Item
from xplain.data.sources import ImageSource, find_images
from xplain.models import Classifier
from xplain.oracle.engine_choice import choose_engine
from xplain.oracle.engines import Engine, use_engine
from xplain.oracle.runtime import inference_session, load_model
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.attribution import check_distinct, check_methods, resolve_methods
from xplain.pipelines.background import Deferred, run_in_background
from xplain.pipelines.batch_attribution import attribute_batch
from xplain.pipelines.batches import PredictedBatch, TargetedBatch, largest_group, make_items, predict_batches
from xplain.pipelines.file_names import describe_contrasts, describe_settings, file_label, join_parts
from xplain.pipelines.method_run import SEQUENCE, MethodRun
from xplain.pipelines.original_images import check_image, check_pictures, describe_picture, load_original
from xplain.pipelines.progress import (
    OnProgress,
    OnResults,
    ProgressCounter,
    ResultCount,
    ignore_progress,
    ignore_results,
)
from xplain.pipelines.records import describe_computation, describe_explanation, describe_run, fingerprinted, is_current
from xplain.pipelines.stability import count_stability_rows
from xplain.reports.band_pictures import describe_shown_bands
from xplain.reports.explanation_files import OVERWRITE_HINT, STEPS, ExplanationFiles, FileNames
from xplain.reports.render import KINDS, get_colormap
from xplain.reports.steps_figure import STEPS as STEP_ARRAYS

STABILITY = "stability"  # the picture of the pixels that stay
Paths = dict[str, Path]  # the files of an explanation by kind


@dataclass(frozen=True)
class Explained:
    """A finished explanation: its record and, if it was not written to a file, the PNG bytes."""

    record: dict[str, Any]
    content: bytes | None = None


Outcome = Explained | Failure


def explain(
    config: ExplainConfig, on_progress: OnProgress = ignore_progress, on_results: OnResults = ignore_results
) -> Iterator[Outcome]:
    """Explain images and yield, in order, each explanation after its files are written and each failed image.

    Rendering and writing run in the background while the next images are explained. ``on_progress`` counts rows of the model,
    and ``on_results`` explanations.
    Raises an XplainError for an error of the request as a whole.
    """
    return run_in_background(_explain_images(config, on_progress, ResultCount(on_results)))


def _explain_images(
    config: ExplainConfig, on_progress: OnProgress, results: ResultCount
) -> Iterator[Outcome | Deferred[Outcome]]:
    """Yield the outcomes in order. Rendering and writing of new explanations are deferred."""
    sources = find_images(config.inputs, config.files_from, null=config.null, output=config.output)
    _check_request(config, sources)
    classifier = load_model(config.model, config.pixels, config.target)
    target_spec = TargetSpec.parse(config.target, config.against, classifier)
    methods = _resolve_methods(config, classifier)
    kinds = tuple(dict.fromkeys(config.saves))
    files = ExplanationFiles(
        config.output, kinds, config.render, config.overwrite, config.pixels.bands, config.picture.scale
    )
    rows = len(sources) * target_spec.count * sum(_count_rows(config, method) for method in methods)
    counter = ProgressCounter(on_progress, rows)
    engines = {method.label: _choose_engine(config, classifier, method) for method in methods}
    facts = describe_run(config.compute, classifier)
    run = ExplainRun(config, classifier, target_spec, methods, files, facts, counter, engines, results)
    run.check_existing([source.stem for source in sources])
    needs_labels = target_spec.kind == "label"
    items, unlabeled = make_items(sources, classifier.class_names, needs_labels=needs_labels)
    yield from unlabeled
    run.count_existing(items)
    size = largest_group(methods, classifier, config.compute)
    with inference_session(classifier):
        for failures, batch in predict_batches(
            classifier, items, config.compute, size=size, needs_labels=needs_labels, first=methods[0]
        ):
            yield from failures
            if batch is not None:
                yield from run.explain_batch(batch)


def _check_request(config: ExplainConfig, sources: Sequence[ImageSource]) -> None:
    """Raise UsageError if the request is invalid, before a model is loaded."""
    get_colormap(config.render.colormap)
    for kind in config.saves:
        if kind not in KINDS:
            raise UsageError(f"unknown value {kind!r} for --save", f"choose from {', '.join(KINDS)}")
    if STABILITY in config.saves and config.stability == "off":
        raise UsageError("--save stability requires the stability of the map", "use --stability quick or full")
    if config.output is None:
        single = (len(sources), len(config.methods), len(config.saves)) == (1, 1, 1)
        if not single or "raw" in config.saves or STEPS in config.saves:
            raise UsageError(
                "--output - writes a single PNG",
                "pass one image, one method and one --save value other than raw and steps",
            )
    check_methods(config.methods, config.layer, config.layout)
    check_pictures(config.picture, config.saves)
    if STEPS in config.saves:
        for choice in config.methods:
            spec = METHODS.get(choice.name)
            if SEQUENCE not in spec.parameters:
                having = " or ".join(spec.name for spec in METHODS if SEQUENCE in spec.parameters)
                raise UsageError(f"--save steps: {spec.name} has no sequence of inputs to show", f"use {having}")


def _choose_engine(config: ExplainConfig, classifier: Classifier, method: MethodRun) -> Engine | None:
    """Return what computes the model for a method; ``auto`` decides by the rows of one image, so that files of other images still match."""
    return choose_engine(classifier, config.compute.engine, config.compute.precision, method.planned_rows)


def _count_rows(config: ExplainConfig, method: MethodRun) -> int:
    """Return the maximum number of forward rows per image of a method and its repeats."""
    return method.rows_per_image + count_stability_rows(config.stability, method)


def _resolve_methods(config: ExplainConfig, classifier: Classifier) -> list[MethodRun]:
    """Resolve the methods. Raises UsageError for a repeated one."""
    methods = resolve_methods(config.methods, config.score, classifier, config.layer, config.layout)
    check_distinct(file_label(method.label) for method in methods)
    return [replace(method, keeps_sequence=True) for method in methods] if STEPS in config.saves else methods


@dataclass(frozen=True, eq=False)
class ExplainRun:
    """What all batches of one ``xplain explain`` share.

    facts: the record of the run. engines: what computes the model, by label of the method; None: PyTorch.
    results: counts explanations whose files are written.
    existing: label of the method and key of the image of explanations that are counted as done. kept: those with the same settings.
    """

    config: ExplainConfig
    classifier: Classifier
    target_spec: TargetSpec
    methods: Sequence[MethodRun]
    files: ExplanationFiles
    facts: dict[str, Any]
    counter: ProgressCounter
    engines: dict[str, Engine | None]
    results: ResultCount
    existing: set[tuple[str, str]] = field(default_factory=set)
    kept: set[tuple[str, str]] = field(default_factory=set)

    def fingerprint(self, method: MethodRun) -> str:
        """Return a digest of all settings that affect the outputs, excluding the image."""
        config = self.config
        facts = fingerprinted(self.describe_facts(method))
        entries = [facts, method.describe(), config.target, config.against, self.describe_render()]
        if config.stability != "off":
            entries.append({"stability": config.stability})
        return fingerprint(*entries)

    def describe_facts(self, method: MethodRun) -> dict[str, Any]:
        """Return the record of the run, with what computes the model for a method."""
        return self.facts | describe_computation(self.engines[method.label])

    def describe_render(self) -> dict[str, Any]:
        """Return how pictures are drawn, for the fingerprint. Options that earlier versions lack are omitted at their default."""
        bands = describe_shown_bands(self.classifier.input_channels, self.config.pixels.bands)
        picture = self.config.picture
        return asdict(self.config.render) | bands | ({} if picture == PictureOptions() else asdict(picture))

    def file_names(self, method: MethodRun, stem: str, target: str) -> FileNames:
        """Return the names of the files of one explanation."""
        is_repeated = sum(other.spec.name == method.spec.name for other in self.methods) > 1
        label = file_label(method.label) if is_repeated else method.spec.name
        contrasts, settings = describe_contrasts(self.target_spec), describe_settings(self.config, method)
        return FileNames(
            plain=join_parts(stem, label, target, contrasts),
            former=join_parts(stem, label, target),
            full=join_parts(stem, file_label(method.label), target, contrasts, settings),
        )

    def check_existing(self, stems: Sequence[str]) -> None:
        """Raise UsageError for a file that explain did not write, if the file names are known before prediction."""
        if self.target_spec.kind in ("auto", "class", "similar"):
            suffix = self.target_spec.suffix(self.target_spec.index)
            for method in self.methods:
                self.files.check(self.file_names(method, stem, suffix).plain for stem in stems)

    def count_existing(self, items: Sequence[Item]) -> None:
        """Count the explanations that exist as done, if the file names are known before prediction."""
        for method in self.methods if self.target_spec.kind != "top" else ():
            fingerprint = self.fingerprint(method)
            for item in items:
                index = item.label if self.target_spec.kind == "label" else self.target_spec.index
                name = self.file_names(method, item.source.stem, self.target_spec.suffix(index or 0)).plain
                if self.files.is_complete(name):
                    self.existing.add((method.label, item.key))
                    self.counter.skip(_count_rows(self.config, method))
                    if self.files.has_settings(name, fingerprint):
                        self.kept.add((method.label, item.key))
        self.results.start(len(self.kept), len(items) * len(self.methods) * self.target_spec.count)

    def explain_batch(self, batch: PredictedBatch) -> Iterator[Outcome | Deferred[Outcome]]:
        """Explain every target with every method."""
        for targeted in batch.for_targets(self.target_spec, self.classifier):
            for method in self.methods:
                for part in targeted.parts(method, self.classifier, self.config.compute):
                    missing = sum((method.label, item.key) not in self.existing for item in part.items)
                    self.counter.start_part(_count_rows(self.config, method) * missing)
                    yield from self._explain_part(method, part)
                    self.counter.finish_part()

    def _explain_part(self, method: MethodRun, batch: TargetedBatch) -> Iterator[Outcome | Deferred[Outcome]]:
        """Run one method on images that share a forward pass, and load explanations that already exist."""
        missing, paths = [], []
        for i, (item, target) in enumerate(zip(batch.items, batch.classes, strict=True)):
            names = self.file_names(method, item.source.stem, self.target_spec.suffix(target))
            try:
                check_image(self.config.picture, batch.loaded[i])
                files, record = self.files.find(names, batch.loaded[i].digest, self.fingerprint(method))
                if record is not None and not is_current(record, self.classifier, method):
                    raise InputError(
                        f"{str(next(iter(files.values())))!r} already exists with other class names or baseline images",
                        OVERWRITE_HINT,
                    )
            except InputError as error:
                yield Failure(item.key, error)
                continue
            if record is not None:
                if (method.label, item.key) not in self.kept:
                    self.results.add(1)
                yield Explained(record)
                continue
            missing.append(i)
            paths.append(files)
        if missing:
            yield from self._attribute(method, batch.select(missing), paths)

    def _attribute(
        self, method: MethodRun, batch: TargetedBatch, paths: Sequence[Paths]
    ) -> Iterator[Failure | Deferred[Outcome]]:
        """Compute the attributions and defer the writing of their files."""
        try:
            with use_engine(self.classifier, self.engines[method.label]):
                result = attribute_batch(
                    method,
                    self.classifier,
                    batch,
                    self.config.compute,
                    self.config.stability,
                    self.config.render,
                    self.counter.advance,
                ).cpu()  # before the next images, which the background thread would wait for
        except InputError as error:
            yield from (Failure(item.key, error) for item in batch.items)
            return
        for i in range(len(batch)):
            yield Deferred(partial(self._write, method, batch, i, result, paths[i]))

    def _write(self, method: MethodRun, batch: TargetedBatch, i: int, result: Attribution, paths: Paths) -> Outcome:
        """Write the files of one image and return the explanation, or a Failure if the attributions are not finite."""
        key, values = batch.items[i].key, result.values[i]
        if not bool(values.isfinite().all()):
            error = InputError(
                f"the attributions of {key!r} contain NaN or infinity", "check the weights or use --precision fp32"
            )
            return Failure(key, error)
        try:
            original = load_original(self.config, self.classifier, batch.loaded[i])
        except InputError as error:
            return Failure(key, error)
        record = describe_explanation(self.classifier, method, batch, result, i)
        drawn = describe_picture(self.config.picture, original)
        record |= self.describe_facts(method) | {
            "render": self.describe_render() | drawn,
            "fingerprint": self.fingerprint(method),
        }
        image = batch.cpu_images[i].float().numpy()
        attribution = values.float().numpy()
        steps = {name: result.details[name][i].float().numpy() for name in STEP_ARRAYS if STEPS in paths}
        marks = None if result.stability is None else result.stability.marks(i)
        shares = None if marks is None else marks.shares.double().numpy()
        content = self.files.write(paths, image, attribution, record, steps, original, shares)
        self.results.add(1)
        return Explained(record, content)
