"""The flow of ``xplain bench``: for each model, measure the plain model, then every method and metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from xplain.core.config import BenchConfig
from xplain.core.files import lock_directory
from xplain.oracle.runtime import inference_session, load_model
from xplain.pipelines.benchmark_case import check_parameters, list_specs
from xplain.pipelines.benchmark_files import BenchmarkFiles
from xplain.pipelines.benchmark_records import Group, describe_machine
from xplain.pipelines.model_benchmark import ModelBenchmark
from xplain.pipelines.progress import OnResults, ResultCount, ignore_results
from xplain.pipelines.reference_implementations import find_reference
from xplain.reports.published_speeds import PublishedSpeeds


def bench(
    config: BenchConfig,
    output: Path | None = None,
    speeds: PublishedSpeeds | None = None,
    on_results: OnResults = ignore_results,
) -> Iterator[Group]:
    """Run the benchmark and yield groups of records: the environment, then the bare-model throughput and the runs of each model.

    output: directory of bench.json and bench.md, which are updated before each group is yielded. An interrupted benchmark in this directory
    is resumed. speeds: a paper's speeds, which bench.md shows. on_results: called with the numbers of kept and of all measurements.
    Raises XplainError if the request is invalid, the directory has results of another one, or the files cannot be written.
    """
    if output is None:
        yield from measure_models(config)
        return
    with lock_directory(output):
        files = BenchmarkFiles(output, config, speeds)
        files.check_existing()
        existing = files.load_existing()
        groups: list[Group] = []
        results = ResultCount(on_results)
        for group in measure_models(config, existing):
            if not groups:  # the machine; measurements of another one are repeated
                results.start(_count_runs(existing) if group in existing else 0, _count_planned(config))
            groups.append(group)
            is_new_run = group[0]["kind"] == "run" and group not in existing
            if is_new_run or not existing:  # keep the files of an interrupted benchmark until new results exist
                files.write(groups)
            results.add(is_new_run)
            yield group
        files.finish(groups)


def _count_runs(groups: Sequence[Group]) -> int:
    """Return the number of measurements."""
    return sum(group[0]["kind"] == "run" for group in groups)


def _count_planned(config: BenchConfig) -> int:
    """Return the number of measurements of a benchmark: every method and metric on one image and on all, per model."""
    return len(config.models) * len(list(list_specs(config))) * len({1, config.images})


def measure_models(config: BenchConfig, existing: Sequence[Group] = ()) -> Iterator[Group]:
    """Measure every model and yield the same groups as ``bench``.

    existing: groups of an interrupted benchmark with the same configuration. On the same machine, its runs are reused, because each of them
    was timed together with the bare model.
    """
    _check_request(config)
    for number, name in enumerate(config.models):
        classifier = load_model(replace(config.model, name=name), config.pixels)
        if number == 0:
            environment = [describe_machine(config, classifier.device)]
            existing = existing if environment in existing else ()
            yield environment
        with inference_session(classifier):
            yield from ModelBenchmark(config, classifier).run(existing)


def _check_request(config: BenchConfig) -> None:
    """Raise UsageError if a method or metric is invalid or if Captum is required but missing, before a model is loaded."""
    for choice, spec in list_specs(config):
        check_parameters(spec, dict(choice.params))
        if config.peer:
            find_reference(spec.name)
