"""The flow of each command on one screen: what is read, computed and written, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xplain.core.config import ExplainConfig
from xplain.core.errors import Failure, InputError, UsageError
from xplain.core.run_store import fingerprint
from xplain.core.types import Attribution
from xplain.data.images import LoadedImage, read_ahead
from xplain.data.sources import Source, find_images
from xplain.models import Classifier
from xplain.oracle.runtime import Runtime, inference_session, load_model
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.background import Later, finish_behind
from xplain.pipelines.batches import Batch, ask
from xplain.pipelines.plans import check_distinct, check_methods, images_a_call, plan_works, run_work
from xplain.pipelines.records import Work, describe_explanation, describe_run
from xplain.reports.explanation_files import Outputs
from xplain.reports.render import KINDS, colour_map

Paths = dict[str, Path]  # an explanation's files by kind


def _ignore(rows: int) -> None:
    """No one watches."""


@dataclass(frozen=True)
class Progress:
    """Where a flow reports its work: ``plan`` rows in all, then ``advance`` as they are done."""

    plan: Callable[[int], None] = _ignore
    advance: Callable[[int], None] = _ignore


@dataclass(frozen=True)
class Explained:
    """One finished explanation: its record, and the PNG's bytes where they were not written to a file."""

    record: dict[str, Any]
    content: bytes | None = None


Outcome = Explained | Failure


def explain(config: ExplainConfig, progress: Progress | None = None) -> Iterator[Outcome]:
    """Explain images; yields each explanation when its files are written, and each image that failed.

    Files are drawn and written while the next images are explained. Raises an XplainError for what is wrong with the request as a
    whole.
    """
    return finish_behind(compute(config, progress or Progress()))


def compute(config: ExplainConfig, progress: Progress) -> Iterator[Outcome | Later[Outcome]]:
    """The explanations in order, those that are new still to be drawn and written."""
    sources = find_images(config.inputs, config.files_from)
    check_request(config, sources)
    classifier = load_model(config.compute)
    question = TargetSpec.parse(config.target, config.against, classifier)
    works = plan_methods(config, classifier)
    outputs = Outputs(config.output, tuple(dict.fromkeys(config.saves)), config.look, config.overwrite)
    run = Run(config, classifier, question, outputs, progress, describe_run(config.compute, classifier))
    if question.kind in ("auto", "class"):  # the files' names are known before the images are read
        for work in works:
            outputs.check(
                (each.stem for each in sources), work.label, question.suffix(question.index), run.fingerprint(work)
            )

    progress.plan(len(sources) * question.count * sum(work.rows for work in works))
    size = max(images_a_call(classifier, work, run.runtime()) for work in works)
    with inference_session(classifier):
        for group in read_ahead(sources, classifier.preprocessing, size):
            yield from (each for each in group if isinstance(each, Failure))
            if loaded := [each for each in group if isinstance(each, LoadedImage)]:
                yield from run.explain_group(loaded, works)


def check_request(config: ExplainConfig, sources: Sequence[Source]) -> None:
    """What can be wrong before a model is loaded. Raises UsageError."""
    colour_map(config.look.colours)
    for kind in config.saves:
        if kind not in KINDS:
            raise UsageError(f"unknown kind {kind!r} to save", f"choose from {', '.join(KINDS)}")
    if config.output is None and (
        (len(sources), len(config.methods), len(config.saves)) != (1, 1, 1) or "raw" in config.saves
    ):
        raise UsageError("-o - writes one PNG", "give one image, one method and one --save other than raw")
    check_methods(config.methods, config.layer)


def plan_methods(config: ExplainConfig, classifier: Classifier) -> list[Work]:
    """The methods with their settings; one that is asked for twice carries its parameters in its files' names."""
    works = plan_works(config.methods, config.score, classifier, config.layer)
    counts = Counter(work.spec.name for work in works)
    labels = [name_in_files(work.label) if counts[work.spec.name] > 1 else work.spec.name for work in works]
    check_distinct(labels)
    return [replace(work, label=label) for work, label in zip(works, labels, strict=True)]


def name_in_files(label: str) -> str:
    """``agi_steps=10`` of ``agi:steps=10``; a parameter that is a path makes no folder."""
    return label.replace(":", "_", 1).replace("/", "-")


@dataclass(frozen=True, eq=False)
class Run:
    """What every group of images of one ``explain`` shares."""

    config: ExplainConfig
    classifier: Classifier
    question: TargetSpec
    outputs: Outputs
    progress: Progress
    facts: dict[str, Any]

    def fingerprint(self, work: Work) -> str:
        """A digest of the settings that determine a work's numbers and pictures, but for the image."""
        stable = {key: value for key, value in self.facts.items() if key != "device"}
        return fingerprint(stable, work.describe(), self.config.target, self.config.against, asdict(self.outputs.look))

    def runtime(self, advance: Callable[[int], None] = _ignore) -> Runtime:
        """How methods are run."""
        return Runtime.of(self.config.compute, advance)

    def explain_group(self, loaded: list[LoadedImage], works: Sequence[Work]) -> Iterator[Outcome | Later[Outcome]]:
        """Predict once, then run every target and method on the images that can be used."""
        asked, failed = ask(self.classifier, loaded, self.question.kind == "label", self.runtime())
        yield from failed
        if not asked.loaded:
            return
        for y in self.question.targets(asked.logits, asked.labels):
            contrasts = self.question.contrasts(self.classifier, asked.logits, y)
            batch = Batch(asked.loaded, asked.images, asked.logits, y, contrasts)
            for work in works:
                for part in batch.parts(images_a_call(self.classifier, work, self.runtime())):
                    yield from self._explain(work, part)

    def _explain(self, work: Work, batch: Batch) -> Iterator[Outcome | Later[Outcome]]:
        """One method on images that go together: what is there already is kept, the rest is computed, to be written."""
        targets = [self.question.suffix(index) for index in batch.y.tolist()]
        stems = [each.source.stem for each in batch.loaded]
        paths = [self.outputs.paths(stem, work.label, target) for stem, target in zip(stems, targets, strict=True)]
        todo = yield from self._keep(work, batch, paths)
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            self.progress.advance(rows)

        if todo:
            yield from self._make(work, batch.pick(todo), [paths[i] for i in todo], advance)
        self.progress.advance(max(work.rows * len(batch.loaded) - done, 0))

    def _keep(self, work: Work, batch: Batch, paths: Sequence[Paths]) -> Generator[Outcome, None, list[int]]:
        """Yields what is there already; returns which images are still to be explained."""
        todo = []
        for i, each in enumerate(batch.loaded):
            try:
                record = self.outputs.kept(paths[i], each.digest, self.fingerprint(work))
            except InputError as error:
                yield Failure(each.source.name, error)
                continue
            if record is None:
                todo.append(i)
            else:
                yield Explained(record)
        return todo

    def _make(
        self, work: Work, batch: Batch, paths: Sequence[Paths], advance: Callable[[int], None]
    ) -> Iterator[Failure | Later[Outcome]]:
        """Compute, and leave the writing to be done."""
        try:
            result = run_work(self.classifier, work, batch.images, batch.y, batch.contrasts, self.runtime(advance))
        except InputError as error:
            yield from (Failure(each.source.name, error) for each in batch.loaded)
            return
        for i in range(len(batch.loaded)):
            yield Later(partial(self._write, work, batch, i, result, paths[i]))

    def _write(self, work: Work, batch: Batch, i: int, result: Attribution, paths: Paths) -> Outcome:
        """The files of one image; a map that is not finite has none."""
        each, values = batch.loaded[i], result.values[i]
        if not bool(values.isfinite().all()):
            why = f"the attribution of {each.source.name!r} is not finite"
            return Failure(each.source.name, InputError(why, "check the weights and --precision"))
        against = [] if batch.contrasts is None else batch.contrasts[i].tolist()
        record = describe_explanation(each, work, self.classifier, batch.logits[i], against, result, i)
        record |= self.facts | {"render": asdict(self.outputs.look), "fingerprint": self.fingerprint(work)}
        image, attribution = (tensor.float().cpu().numpy() for tensor in (batch.images[i], values))
        return Explained(record, self.outputs.write(paths, image, attribution, record))
