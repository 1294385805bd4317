"""The JSON records of ``xplain bench``: environment, ceiling and run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xplain.core.config import BenchConfig
from xplain.core.options import ComputeOptions
from xplain.models import Classifier
from xplain.pipelines.benchmark_case import BenchmarkCase
from xplain.pipelines.records import describe_run
from xplain.pipelines.throughput import BatchSizeSearch, Throughput, ideal_seconds
from xplain.pipelines.timing import Spread, TimingResult
from xplain.reports.benchmark_report import ENGINE_SPEEDUP

Record = dict[str, Any]
Group = list[Record]  # records that were measured together
MEBIBYTE = 1 << 20


def describe_machine(config: BenchConfig, device: torch.device) -> Record:
    """Return the record of the environment: hardware, precision and number of repeats."""
    return {
        "kind": "environment",
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": read_cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "precision": config.compute.precision,
        "images": config.images,
        "repeats": config.repeats,
    }


def read_cpu_name() -> str:
    """Return the model name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_ceiling(
    compute: ComputeOptions,
    classifier: Classifier,
    rows_per_call: int,
    prepared: Throughput,
    unprepared: Throughput,
    compiled: Throughput | None = None,
) -> Record:
    """Return the record of the bare-model throughput. rows_per_call: batch size of methods without their own limit.

    compiled: the throughput of the compiled engine, if it is measured.
    """
    return {
        "kind": "ceiling",
        **describe_run(compute, classifier),
        "size": list(classifier.size),
        "rows_a_call": rows_per_call,
        "prepared": _describe_throughput(prepared),
        "plain": _describe_throughput(unprepared),
        **({} if compiled is None else {"openvino": _describe_throughput(compiled)}),
    }


def _describe_throughput(throughput: Throughput) -> dict[str, Any]:
    gradients = {} if throughput.gradients is None else {"gradients": _describe_search(throughput.gradients)}
    return gradients | {"forwards": _describe_search(throughput.forwards)}


def _describe_search(search: BatchSizeSearch) -> dict[str, Any]:
    return {"rows": search.batch_size, "rows_per_second": search.rate, "all": search.rates}


def describe_own_run(
    case: BenchmarkCase,
    result: TimingResult,
    gradients: TimingResult,
    forwards: TimingResult,
    agreement: Mapping[str, float] | None,
) -> Record:
    """Return the record of xplain's run of a case.

    gradients, forwards: timing of the bare model in the same rounds, used to compute the efficiency. agreement: agreement with float32
    results.
    """
    images, cost = result.candidate.images, result.stats.cost
    return _describe_result(case, result) | {
        "gradient_rows_per_second": _rate_spread(cost.backwards, result.seconds),
        "forward_rows_per_second": _rate_spread(cost.forwards, result.seconds),
        "efficiency": _spread(_efficiencies(result, gradients, forwards)) if cost.forwards else None,
        "forwards": cost.forwards / images,
        "backwards": cost.backwards / images,
        "checks": cost.checks / images,
        "agreement_with_fp32": agreement,
    }


def describe_engine_run(
    case: BenchmarkCase,
    result: TimingResult,
    gradients: TimingResult,
    forwards: TimingResult,
    own: TimingResult,
    agreement: Mapping[str, float] | None,
) -> Record:
    """Return the record of xplain's run of a case in a compiled engine. own: its run in PyTorch in the same rounds.

    gradients, forwards: timing of the bare model in the engine, or in PyTorch where the engine does not compute it.
    agreement: agreement with float32 results.
    """
    ratios = [own_seconds / seconds for seconds, own_seconds in zip(result.seconds, own.seconds, strict=True)]
    return describe_own_run(case, result, gradients, forwards, agreement) | {ENGINE_SPEEDUP: _spread(ratios)}


def describe_reference_run(case: BenchmarkCase, result: TimingResult, own: TimingResult) -> Record:
    """Return the record of a reference implementation. own: xplain's result in the same rounds."""
    # a failed reference implementation has no timings
    ratios = [seconds / own_seconds for seconds, own_seconds in zip(result.seconds, own.seconds, strict=False)]
    return _describe_result(case, result) | {"xplain_is_faster_by": _spread(ratios)}


def _describe_result(case: BenchmarkCase, result: TimingResult) -> Record:
    """Return the entries common to all implementations, with the other entries set to None."""
    images = result.candidate.images
    return {
        "kind": "run",
        "model": case.classifier.name,
        case.kind: case.spec.name,
        "label": case.label,
        "params": case.settings,
        "images": images,
        "program": result.candidate.program,
        "rows_asked": result.candidate.rows,
        "images_per_second": _rate_spread(images, result.seconds),
        "gradient_rows_per_second": None,
        "forward_rows_per_second": None,
        "efficiency": None,
        "forwards": None,
        "backwards": None,
        "checks": None,
        "rows_a_call": result.stats.rows_per_call,
        "peak_memory_mib": None if result.peak_memory is None else result.peak_memory / MEBIBYTE,
        "xplain_is_faster_by": None,
        "seconds": result.seconds,
        "error": result.error or None,
    }


def _rate_spread(amount: int, seconds: Sequence[float]) -> dict[str, float] | None:
    """Return the spread of ``amount`` per second, or None if ``amount`` is zero."""
    return _spread([amount / second for second in seconds]) if amount else None


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median, minimum and maximum, or None if there are no values."""
    return asdict(Spread.of(values)) if values else None


def _efficiencies(result: TimingResult, gradients: TimingResult, forwards: TimingResult) -> list[float]:
    """Return the efficiency in each round: the time of the bare model for the same number of samples divided by the time of the case."""
    cost, efficiencies = result.stats.cost, []
    for seconds, gradient_seconds, forward_seconds in zip(
        result.seconds, gradients.seconds, forwards.seconds, strict=True
    ):
        forward_rate = forwards.candidate.images / forward_seconds
        gradient_rate = gradients.candidate.images / gradient_seconds
        ideal = ideal_seconds(cost.forwards, cost.backwards, forward_rate, gradient_rate)
        efficiencies.append(ideal / seconds)
    return efficiencies
