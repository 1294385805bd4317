"""Benchmark one model: bare-model throughput, methods, metrics and, if requested, reference implementations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from xplain.core.allocator import default_allocator, retain_freed_memory
from xplain.core.config import BenchConfig
from xplain.core.errors import DeviceError, UsageError
from xplain.core.registry import MethodSpec
from xplain.data.images import read_model_input
from xplain.data.sources import find_images
from xplain.models import Classifier
from xplain.oracle import Oracle
from xplain.oracle.access import check_access
from xplain.oracle.engine_choice import choose_engine
from xplain.pipelines.benchmark_case import BenchmarkCase, list_specs
from xplain.pipelines.benchmark_records import (
    Group,
    describe_ceiling,
    describe_engine_run,
    describe_own_run,
    describe_reference_run,
)
from xplain.pipelines.records import describe_run
from xplain.pipelines.reference_implementations import ReferenceImplementation, find_reference
from xplain.pipelines.throughput import (
    BatchSizeSearch,
    EngineModel,
    PlainModel,
    Throughput,
    at_precision,
    measure_throughput,
    repeat_to_size,
)
from xplain.pipelines.timing import Candidate, RunStats, TimingResult, time_interleaved

MIN_SECONDS = 1.0  # minimum time of the bare model in each round
ENGINE_PROGRAM = "xplain, openvino"


class ModelBenchmark:
    """Benchmark of one model on fixed images, target classes and maps.

    images: (B, C, H, W). targets: (B,) the top classes. maps: (B, 1, H, W) uniform noise, which metrics evaluate.
    """

    def __init__(self, config: BenchConfig, classifier: Classifier) -> None:
        self.config = config
        self.classifier = classifier
        self.images = load_images(config, classifier)
        self.counts = list(dict.fromkeys((1, len(self.images))))  # numbers of images per case
        oracle = Oracle(classifier, batch_size=config.compute.batch_size, precision=config.compute.precision)
        self.targets = classifier.output.top_classes(oracle.logits(self.images))
        self.rows_per_call = oracle.rows_per_call(self.images)
        self.engine = None
        if config.compute.engine == "openvino":
            self.engine = choose_engine(classifier, "openvino", config.compute.precision)
        generator = torch.Generator().manual_seed(config.compute.seed)
        self.maps = torch.rand(self.images[:, :1].shape, generator=generator).to(self.images)

    def run(self, existing: Sequence[Group] = ()) -> Iterator[Group]:
        """Yield the ceiling, then each case on one image and on all images.

        existing: groups of an interrupted benchmark. Its runs of the same model are reused.
        """
        existing_ceiling, runs = self._find_existing(existing)
        cases = list(self._list_cases())
        if existing_ceiling and all((case.label, count) in runs for case in cases for count in self.counts):
            yield existing_ceiling
            for case in cases:
                yield from (runs[case.label, count] for count in self.counts)
            return
        for case in cases:
            check_access(self.classifier, case.spec.access, case.spec.name)
        precision = self.config.compute.precision
        prepared_model = PlainModel(self.classifier, precision, prepared=True)
        prepared = measure_throughput(prepared_model, self.images)
        unprepared = measure_throughput(PlainModel(self.classifier, precision, prepared=False), self.images)
        compiled = None if self.engine is None else EngineModel(self.engine).measure(self.images)
        yield [
            describe_ceiling(self.config.compute, self.classifier, self.rows_per_call, prepared, unprepared, compiled)
        ]
        # A model without gradients runs methods without backward passes only, whose efficiency does not depend on gradients.
        work = prepared_model.forward if prepared.gradients is None else prepared_model.gradient
        ceiling = [
            self._make_ceiling_candidate("gradients", work, prepared.gradients or prepared.forwards),
            self._make_ceiling_candidate("forwards", prepared_model.forward, prepared.forwards),
        ]
        engine_ceiling = self._make_engine_ceiling(compiled)
        for case in cases:
            yield from self._run_case(case, runs, [*ceiling, *engine_ceiling], unprepared)

    def _find_existing(self, existing: Sequence[Group]) -> tuple[Group | None, dict[tuple[str, int], Group]]:
        """Return the existing ceiling record and runs of this model, by label and number of images.

        Return (None, {}) if the model has changed.
        """
        facts = json.loads(json.dumps(describe_run(self.config.compute, self.classifier)))  # convert tuples to lists
        ceiling = None
        runs = {}
        for group in existing:
            record = group[0]
            if record["kind"] == "ceiling" and facts.items() <= record.items():
                ceiling = ceiling or group
            elif record["kind"] == "run" and record["model"] == self.classifier.name:
                runs[record["label"], record["images"]] = group
        if ceiling is None:
            return None, {}
        return ceiling, runs

    def _list_cases(self) -> Iterator[BenchmarkCase]:
        for choice, spec in list_specs(self.config):
            yield BenchmarkCase(spec, choice, self.config.compute, self.classifier, self.maps)

    def _make_ceiling_candidate(self, name: str, work: Callable[[Tensor], None], search: BatchSizeSearch) -> Candidate:
        """Return a candidate that runs the bare model at its fastest batch size for at least MIN_SECONDS."""
        batch, calls = repeat_to_size(self.images, search.batch_size), search.calls_for(MIN_SECONDS)

        def run() -> RunStats:
            for _ in range(calls):
                work(batch)
            return RunStats()

        return Candidate(name, len(batch) * calls, run, retain_freed_memory, warm_up=lambda: work(batch))

    def _make_engine_ceiling(self, compiled: Throughput | None) -> list[Candidate]:
        """Return candidates of the bare model in the engine, of forward passes and of gradients if it computes them."""
        if self.engine is None or compiled is None:
            return []
        model = EngineModel(self.engine)
        ceiling = [self._make_ceiling_candidate("engine forwards", model.forward, compiled.forwards)]
        if compiled.gradients is not None:
            ceiling.append(self._make_ceiling_candidate("engine gradients", model.gradient, compiled.gradients))
        return ceiling

    def _run_case(
        self,
        case: BenchmarkCase,
        runs: Mapping[tuple[str, int], Group],
        ceiling: Sequence[Candidate],
        unprepared: Throughput,
    ) -> Iterator[Group]:
        """Yield the runs of a case, measuring those that are not in ``runs``. ceiling: candidates of the bare model."""
        missing = [count for count in self.counts if (case.label, count) not in runs]
        reference, rows = None, None
        if missing and self.config.peer and not case.has_auto_count:
            reference = find_reference(case.spec.name)
        if reference is not None and reference.batched:
            rows = self._find_best_rows(reference, case, unprepared)
        for count in self.counts:
            if count in missing:
                yield self._measure(case, count, ceiling, reference, rows)
            else:
                yield runs[case.label, count]

    def _find_best_rows(
        self, reference: ReferenceImplementation, case: BenchmarkCase, unprepared: Throughput
    ) -> int | None:
        """Return the fastest batch size of a reference implementation for one image, or None if it fails at every batch size.

        The candidates are 0.5, 1 and 2 times the fastest batch size of the unmodified model.
        """
        is_method = isinstance(case.spec, MethodSpec)
        search = unprepared.gradients if is_method and unprepared.gradients else unprepared.forwards
        best = search.batch_size
        sizes = sorted({max(best // 2, 1), best, best * 2})
        candidates = [self._make_reference_candidate(reference, case, 1, rows) for rows in sizes]
        results = [result for result in time_interleaved(candidates, 1, self.images.device) if not result.error]
        if not results:
            return None
        return min(results, key=lambda result: result.seconds[0]).candidate.rows

    def _make_reference_candidate(
        self, reference: ReferenceImplementation, case: BenchmarkCase, count: int, rows: int | None
    ) -> Candidate:
        task, precision = case.task(self.images[:count], self.targets[:count]), self.config.compute.precision

        def run() -> RunStats:
            with at_precision(precision, task.images.device):
                reference.run(task, rows)
            return RunStats()

        return Candidate(reference.program, count, run, default_allocator, rows)

    def _measure(
        self,
        case: BenchmarkCase,
        count: int,
        ceiling: Sequence[Candidate],
        reference: ReferenceImplementation | None,
        rows: int | None,
    ) -> Group:
        """Time a case on ``count`` images, interleaved with the bare model and the reference implementation.

        The reference implementation runs with batch size ``rows`` and, on one image, also with its default batch size.
        Raises an XplainError if the plain model or the case fails.
        """
        images, targets = self.images[:count], self.targets[:count]
        candidates = [*ceiling, Candidate("xplain", count, lambda: case.run(images, targets), nullcontext)]
        if self.engine is not None:
            candidates.append(
                Candidate(ENGINE_PROGRAM, count, lambda: case.run(images, targets, "openvino"), nullcontext)
            )
        sizes: list[int | None] = []
        if reference is not None:
            sizes = [rows] if count > 1 else list(dict.fromkeys((None, rows)))
            candidates += [self._make_reference_candidate(reference, case, count, size) for size in sizes]
        results = time_interleaved(candidates, self.config.repeats, self.images.device)
        named = {result.candidate.program: result for result in results}
        others = results[len(candidates) - len(sizes) :]
        for result in results[: len(candidates) - len(sizes)]:
            _check_success(result, case)
        own, gradients, forwards = named["xplain"], named["gradients"], named["forwards"]
        compares = count == len(self.images)
        agreement = case.compare_with_fp32(images, targets) if compares else None
        records = [describe_own_run(case, own, gradients, forwards, agreement)]
        if ENGINE_PROGRAM in named:
            gradients, forwards = named.get("engine gradients", gradients), named["engine forwards"]
            agreement = case.compare_with_fp32(images, targets, "openvino") if compares else None
            records.append(describe_engine_run(case, named[ENGINE_PROGRAM], gradients, forwards, own, agreement))
        return [*records, *(describe_reference_run(case, other, own) for other in others)]


def _check_success(result: TimingResult, case: BenchmarkCase) -> None:
    """Raise an XplainError if the result contains an error."""
    if isinstance(result.failure, DeviceError):
        raise result.failure
    if result.error:
        kind = UsageError if result.failure is None else type(result.failure)
        raise kind(f"cannot measure {case.spec.name}: {result.error}", "remove it from the command")


def load_images(config: BenchConfig, classifier: Classifier) -> Tensor:
    """Return the first images of the inputs (B, C, H, W), repeated if there are too few, or uniform noise if there are no inputs."""
    if not config.inputs:
        generator = torch.Generator().manual_seed(config.compute.seed)
        noise = torch.rand(config.images, classifier.input_channels, *classifier.size, generator=generator)
        return noise.to(classifier.device, classifier.dtype)
    sources = find_images(config.inputs)[: config.images]
    inputs = [read_model_input(source.read(), source.name, classifier.preprocessing) for source in sources]
    images = torch.stack([image.pixels for image in inputs])
    return repeat_to_size(images, config.images).to(classifier.device, classifier.dtype)
