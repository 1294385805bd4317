"""The flow of each command on one screen: what is read, computed and written, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from xplain.asking import ask
from xplain.config import ExplainConfig
from xplain.engine import resolve_method
from xplain.errors import Failed, InputError, UsageError
from xplain.images import Loaded, Source, find_images, read_ahead
from xplain.models import Classifier
from xplain.outputs import Outputs
from xplain.plans import check_methods, images_a_call, run_work, with_layer
from xplain.records import Work, describe_explanation, describe_run, fingerprint
from xplain.registry import METHODS
from xplain.render import KINDS, colour_map
from xplain.runtime import Runtime, at_work, load_model
from xplain.targets import Question


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


def explain(config: ExplainConfig, progress: Progress | None = None) -> Iterator[Explained | Failed]:
    """Explain images; yields each explanation when its files are written, and each image that failed.

    Raises an XplainError for what is wrong with the request as a whole.
    """
    progress = progress or Progress()
    sources = find_images(config.inputs, config.files_from)
    check_request(config, sources)
    classifier = load_model(config.compute)
    question = Question.parse(config.target, config.against, classifier)
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
    with at_work(classifier):
        for group in read_ahead(sources, classifier.preprocessing, size):
            yield from (each for each in group if isinstance(each, Failed))
            if loaded := [each for each in group if isinstance(each, Loaded)]:
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
    specs = [METHODS.get(choice.name) for choice in config.methods]
    counts = Counter(spec.name for spec in specs)
    works = []
    for spec, choice in zip(specs, config.methods, strict=True):
        params = with_layer(spec, dict(choice.params), config.layer)
        settings, references = resolve_method(spec, params, classifier.preprocessing)
        suffix = ",".join(f"{key}={value}" for key, value in choice.params).replace("/", "-")
        label = f"{spec.name}_{suffix}" if counts[spec.name] > 1 and suffix else spec.name
        works.append(Work(spec, settings, references, config.score or spec.score, label))
    for label, count in Counter(work.label for work in works).items():
        if count > 1:
            raise UsageError(f"method {label!r} is asked for twice", "give each set of parameters once")
    return works


@dataclass(frozen=True, eq=False)
class Run:
    """What every group of images of one ``explain`` shares."""

    config: ExplainConfig
    classifier: Classifier
    question: Question
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

    def explain_group(self, loaded: list[Loaded], works: Sequence[Work]) -> Iterator[Explained | Failed]:
        """Predict once, then run every target and method on the images that can be used."""
        asked, failed = ask(self.classifier, loaded, self.question.kind == "label", self.runtime())
        yield from failed
        if not asked.loaded:
            return
        loaded, images, logits = list(asked.loaded), asked.images, asked.logits
        for y in self.question.targets(logits, asked.labels):
            rivals = self.question.rivals(self.classifier, logits, y)
            for work in works:
                size = images_a_call(self.classifier, work, self.runtime())
                for start in range(0, len(loaded), size):
                    some = slice(start, start + size)
                    yield from self._explain(
                        work,
                        loaded[some],
                        images[some],
                        logits[some],
                        y[some],
                        None if rivals is None else rivals[some],
                    )

    def _explain(
        self, work: Work, loaded: Sequence[Loaded], x: Tensor, logits: Tensor, y: Tensor, rivals: Tensor | None
    ) -> Iterator[Explained | Failed]:
        """One method on images that go together: what is there already is kept, the rest is computed and written."""
        planned, mark = work.rows * len(loaded), self.fingerprint(work)
        targets = [self.question.suffix(index) for index in y.tolist()]
        paths = [self.outputs.paths(e.source.stem, work.label, t) for e, t in zip(loaded, targets, strict=True)]
        todo = []
        for i, each in enumerate(loaded):
            try:
                record = self.outputs.kept(paths[i], each.digest, mark)
            except InputError as error:
                yield Failed(each.source.name, error)
                continue
            if record is None:
                todo.append(i)
            else:
                yield Explained(record)
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            self.progress.advance(rows)

        if todo:
            chosen = None if rivals is None else rivals[todo]
            try:
                result = run_work(self.classifier, work, x[todo], y[todo], chosen, self.runtime(advance))
            except InputError as error:
                yield from (Failed(loaded[i].source.name, error) for i in todo)
                todo = []
        for at, i in enumerate(todo):
            against = [] if rivals is None else rivals[i].tolist()
            record = describe_explanation(loaded[i], work, self.classifier, logits[i], against, result, at)
            record |= self.facts | {"render": asdict(self.outputs.look), "fingerprint": mark}
            values = result.values[at].float().cpu().numpy()
            if bool(result.values[at].isfinite().all()):
                yield Explained(record, self.outputs.write(paths[i], x[i].float().cpu().numpy(), values, record))
            else:
                why = f"the attribution of {loaded[i].source.name!r} is not finite"
                yield Failed(loaded[i].source.name, InputError(why, "check the weights and --precision"))
        self.progress.advance(max(planned - done, 0))
