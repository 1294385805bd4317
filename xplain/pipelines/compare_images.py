"""The flow of ``xplain compare IMAGE...``: every method on every image and model in one pass, scored on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from xplain.core.array_store import ArrayStore
from xplain.core.config import Choice, CompareConfig
from xplain.core.errors import Failure, InputError, UsageError, XplainError, did_you_mean
from xplain.core.registry import METHODS
from xplain.core.run_store import fingerprint
from xplain.core.types import Attribution
from xplain.data.images import LoadedImage, read_ahead, sha256
from xplain.data.sources import Source, find_images
from xplain.models import Classifier
from xplain.oracle.runtime import Runtime, inference_session, load_model
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.batches import Asked, Batch, ask
from xplain.pipelines.plans import (
    Measure,
    check_methods,
    images_a_call,
    label_of,
    plan_metrics,
    plan_works,
    run_work,
    take_measures,
)
from xplain.pipelines.records import Work, describe_explanation, describe_prediction, describe_run, describe_target
from xplain.reports.comparison import Cell, Comparison, Row
from xplain.reports.comparison_figure import SHOWS
from xplain.reports.figures import check_formats
from xplain.reports.render import colour_map, remarks, to_pixels

Advance = Callable[[int, int], None]
Tick = Callable[[], None]
Fail = Callable[[Failure], None]
NOWHERE = ArrayStore(None, "values")
SHARED = ("input", "sha256", "target", "prediction")  # of a record: true of the row, and said once


def plan(config: CompareConfig) -> Plan:
    """Everything but the maps: images found, models loaded. Raises an XplainError for what is wrong with the request."""
    check_names(config)
    measures = plan_metrics(config.protocol, config.metrics) if config.measured else []
    for each in measures:
        if each.spec.scope != "image":
            raise UsageError(f"{each.label} has no value for one image", "see xplain evaluate")
    again = [each.label for each in measures if "explain" in each.spec.needs]
    if again and config.against:
        raise UsageError(f"{again[0]} attributes again, which --against does not reach", "leave one of them out")
    columns = [Column.of(choice, against) for choice in config.methods for against in config.against or (None,)]
    sources = find_images(config.inputs, config.files_from)
    views = [View.open(config, name, columns, measures) for name in config.models]
    return Plan(config, columns, measures, sources, views)


def check_names(config: CompareConfig) -> None:
    """What can be wrong before anything is loaded. Raises UsageError."""
    colour_map(config.look.colours)
    check_formats(config.formats)
    for show in config.shows:
        if show not in SHOWS:
            raise UsageError(f"unknown picture {show!r}", did_you_mean(show, SHOWS, f"choose from {', '.join(SHOWS)}"))
    check_methods(config.methods, config.layer)
    if not config.measured and (config.metrics or config.protocol):
        raise UsageError("--no-metrics and -M exclude one another", "leave one of them out")
    if len(config.models) > 1 and (config.compute.weights or config.compute.classes):
        raise UsageError("--weights and --classes belong to one model", "give one -m")


@dataclass(frozen=True)
class Column:
    """A method, and the classes that the target is explained against. label: what stands above it."""

    choice: Choice
    against: str | None
    label: str

    @classmethod
    def of(cls, choice: Choice, against: str | None) -> Column:
        """With the label ``agi:steps=10 vs tabby``."""
        label = label_of(choice, METHODS.get(choice.name).name)
        return cls(choice, against, label if against is None else f"{label} vs {against}")


@dataclass(frozen=True, eq=False)
class Plan:
    """A comparison that is to be made."""

    config: CompareConfig
    columns: Sequence[Column]
    measures: Sequence[Measure]
    sources: Sequence[Source]
    views: Sequence[View]

    @property
    def fingerprint(self) -> str:
        """A digest of what determines the numbers and pictures: settings, models and the images' bytes."""
        config = self.config
        models = [{key: value for key, value in view.facts.items() if key != "device"} for view in self.views]
        works = [[work.describe() for work in view.works] for view in self.views]
        asked = (config.target, config.against, asdict(config.look), config.shows)
        digests = [(source.name, _digest(source)) for source in self.sources]
        return fingerprint(models, works, [each.describe() for each in self.measures], asked, digests)

    def run(self, advance: Advance, note: Fail, folder: Path | None = None) -> Comparison:
        """Compute all cells. ``note`` hears of each failure, and may raise. Rows are by image, then model, then target.

        folder: where finished cells are kept, and found when the comparison was interrupted.
        """
        total = len(self.sources) * len(self.columns) * sum(view.questions[0].count for view in self.views)
        found, failed, done = list[tuple[int, int, Row]](), list[Failure](), 0
        order = {id(source): number for number, source in enumerate(self.sources)}

        def tick() -> None:
            nonlocal done
            done += 1
            advance(done, total)

        def fail(failure: Failure) -> None:
            failed.append(failure)
            note(failure)

        advance(0, total)
        shelf = ArrayStore(folder, "values")
        for number, view in enumerate(replace(each, cells=shelf) for each in self.views):
            found += [(order[id(source)], number, row) for source, row in view.rows(self.sources, tick, fail)]
        found.sort(key=lambda one: one[:2])
        return Comparison(
            tuple(column.label for column in self.columns),
            {each.label: each.describe() for each in self.measures},
            [row for _, _, row in found],
            failed,
            self.config.look,
            {view.classifier.name: view.facts for view in self.views},
        )


def _digest(source: Source) -> str:
    try:
        return sha256(source.read())
    except InputError:
        return ""


@dataclass(frozen=True, eq=False)
class View:
    """One model's part: what it is asked, by which methods."""

    config: CompareConfig
    classifier: Classifier
    questions: Sequence[TargetSpec]  # one a column
    works: Sequence[Work]  # one a column
    measures: Sequence[Measure]
    facts: dict[str, Any]
    cells: ArrayStore = NOWHERE  # the finished ones

    @classmethod
    def open(cls, config: CompareConfig, name: str, columns: Sequence[Column], measures: Sequence[Measure]) -> View:
        """Load the model."""
        compute = replace(config.compute, model=name)
        classifier = load_model(compute)
        questions = [TargetSpec.parse(config.target, column.against, classifier) for column in columns]
        works = plan_works([column.choice for column in columns], config.score, classifier, config.layer)
        return cls(config, classifier, questions, works, measures, describe_run(compute, classifier))

    @property
    def runtime(self) -> Runtime:
        """How methods and metrics are run."""
        return Runtime.of(self.config.compute)

    def rows(self, sources: Sequence[Source], tick: Tick, fail: Fail) -> Iterator[tuple[Source, Row]]:
        """Rows as they are done, with their sources. ``tick`` is called for each cell, ``fail`` for each failure."""
        size = max(images_a_call(self.classifier, work, self.runtime) for work in self.works)
        with inference_session(self.classifier):
            for group in read_ahead(sources, self.classifier.preprocessing, size):
                for each in group:
                    if isinstance(each, Failure):
                        fail(each)
                if loaded := [each for each in group if isinstance(each, LoadedImage)]:
                    asked, failed = ask(self.classifier, loaded, self.questions[0].kind == "label", self.runtime)
                    for each in failed:
                        fail(each)
                    if asked.loaded:
                        yield from self._answer(asked, tick, fail)

    def _answer(self, asked: Asked, tick: Tick, fail: Fail) -> Iterator[tuple[Source, Row]]:
        """The rows of a group: every target by every column."""
        for y in self.questions[0].targets(asked.logits, asked.labels):
            columns = list[list[Cell | None]]()
            for question, work in zip(self.questions, self.works, strict=True):
                contrasts = question.contrasts(self.classifier, asked.logits, y)
                batch = Batch(asked.loaded, asked.images, asked.logits, y, contrasts)
                columns.append([])
                for part in batch.parts(images_a_call(self.classifier, work, self.runtime)):
                    for cell in self._explain(work, part):
                        columns[-1].append(None if isinstance(cell, Failure) else cell)
                        if isinstance(cell, Failure):
                            fail(cell)
                        tick()
            for i, each in enumerate(asked.loaded):
                image = to_pixels(asked.images[i].float().cpu().numpy())
                cells = [column[i] for column in columns]
                yield each.source, Row(self._describe(each, asked.logits[i], int(y[i])), image, cells)

    def _describe(self, each: LoadedImage, logits: Tensor, target: int) -> dict[str, Any]:
        """What is true of a row whatever the method."""
        probabilities = logits.double().softmax(dim=0)
        return {
            "input": each.source.name,
            "sha256": each.digest,
            "model": self.classifier.name,
            "target": describe_target(self.classifier, target, probabilities),
            "prediction": describe_prediction(self.classifier, probabilities),
        }

    def _explain(self, work: Work, batch: Batch) -> Iterator[Cell | Failure]:
        """One column on images that go together: a cell for each, or why there is none."""
        names, sizes = tuple(each.source.name for each in batch.loaded), tuple(each.size for each in batch.loaded)
        marks = [self._mark(work, batch, i) for i in range(len(names))]
        finished = [self.cells.get(name, work.label, mark) for name, mark in zip(names, marks, strict=True)]
        if all(finished):  # else the group is made as a whole, and has the numbers of an unbroken run to the bit
            yield from (Cell(found[1], found[0]) for found in finished if found)
            return
        try:
            result = run_work(self.classifier, work, batch.images, batch.y, batch.contrasts, self.runtime)
            scores = list(
                take_measures(self.classifier, work, self.measures, batch.images, result, self.runtime, names, sizes)
            )
        except (InputError, UsageError) as error:  # a method that does not fit one model may fit another
            yield from (Failure(name, _named(work, error)) for name in names)
            return
        for i, name in enumerate(names):
            if not bool(result.values[i].isfinite().all()):
                why = InputError(f"the attribution of {name!r} is not finite", "check the weights and --precision")
                yield Failure(name, _named(work, why))
                continue
            record = self._record(work, batch, result, i)
            values = result.values[i].float().cpu().numpy()
            record["warnings"] += remarks(values, self.config.look)
            record |= {"scores": {one.measure.label: one.read(i, None) for one in scores}}
            self.cells.put(name, work.label, marks[i], values, record)
            yield Cell(record, values)

    def _mark(self, work: Work, batch: Batch, i: int) -> str:
        """A digest of what determines a cell."""
        stable = {key: value for key, value in self.facts.items() if key != "device"}
        against = [] if batch.contrasts is None else batch.contrasts[i].tolist()
        asked = ([each.describe() for each in self.measures], asdict(self.config.look), int(batch.y[i]), against)
        return fingerprint(stable, work.describe(), asked, batch.loaded[i].digest)

    def _record(self, work: Work, batch: Batch, result: Attribution, i: int) -> dict[str, Any]:
        """What is said of a cell, but for its scores and what is true of its row."""
        against = [] if batch.contrasts is None else batch.contrasts[i].tolist()
        record = describe_explanation(batch.loaded[i], work, self.classifier, batch.logits[i], against, result, i)
        return {key: value for key, value in record.items() if key not in SHARED}


def _named(work: Work, error: XplainError) -> XplainError:
    """The same error, saying which method it is about."""
    return type(error)(f"{work.label}: {error}")
