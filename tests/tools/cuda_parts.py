"""The parts of ``tests.tools.cuda_check``: agreement, a command, memory that runs out, memory layouts, and benchmarks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import xplain
from tests.tools.cuda_agreement import compare_all
from xplain.models.optimize import copy_classifier, inference_copy
from xplain.oracle.batching import rows_per_call
from xplain.pipelines.throughput import PlainModel, find_best_batch_size

ROOT = Path(__file__).resolve().parents[2]
GIBIBYTE = 1 << 30
ROWS_OF_BACK_OFF = 256


@dataclass(frozen=True)
class PartResult:
    """The result of a part. failures: one line each. lines: Markdown. data: for the JSON file."""

    name: str
    failures: list[str]
    lines: list[str]
    data: Any = None
    seconds: float = field(default=0.0)


def check_agreement(
    device: str, names: Sequence[str] | None = None, networks: Sequence[str] | None = None
) -> PartResult:
    """Compare every method and metric with the CPU in float64, see ``compare_all``."""
    results = list(compare_all(device, names, networks))
    run = [result for result in results if not result.refusal]
    failures = [f"{result.name} on {result.network}: {result.failure}" for result in run if result.failure]
    unused = {result.name for result in results} - {result.name for result in run}
    failures += [f"{name} fits none of the networks" for name in sorted(unused)]
    if not run:
        failures.append("nothing was compared")
    lines = [
        f"{len(run)} pairs of a method or metric and a network, {len(failures)} failures; errors relative to the largest value.",
        "",
        "| network | method or metric | error | of the CPU in float32 | same bytes again | cosine tf32 | cosine bf16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in run:
        cosines = result.cosines or {}
        numbers = [_format(result.error, ".1e"), _format(result.cpu_error, ".1e")]
        numbers.append("yes" if result.is_repeatable else "no")
        numbers += [_format(cosines.get(precision), ".5f") for precision in ("tf32", "bf16")]
        lines.append(f"| {result.network} | {result.name} | {' | '.join(numbers)} |")
    return PartResult("agreement", failures, lines, [result.describe() for result in results])


def check_command(device: str, folder: Path, arguments: Sequence[str]) -> PartResult:
    """Run ``xplain explain`` on a sample photograph."""
    command = ["explain", str(ROOT / "samples" / "cat.jpg"), *arguments, "--device", device, "--json", "--overwrite"]
    started = time.perf_counter()
    ran = run_xplain(*command, "-o", str(folder / "explained"))
    seconds = time.perf_counter() - started
    if ran.returncode:
        return PartResult("command", [f"exit code {ran.returncode}: {_last_line(ran.stderr)}"], [])
    record = json.loads(ran.stdout.splitlines()[0])
    cost = record["cost"]
    line = f"`xplain {' '.join(['explain', 'samples/cat.jpg', *arguments])}`: {seconds:.1f} s, of which the method {cost['seconds']} s."
    return PartResult("command", [], [line], {"seconds": seconds, "cost": cost, "device": record["device"]})


def check_back_off(
    device: str, model: str | nn.Module = "resnet50", images: int = 4, free: int = GIBIBYTE
) -> PartResult:
    """Explain images while little memory is free. Calls must be repeated with fewer rows, with the same result.

    free: bytes that are left to the model.
    """
    classifier = load(model, device)
    x = torch.rand(images, 3, *classifier.size, generator=torch.Generator().manual_seed(0))
    options = {"steps": -(-ROWS_OF_BACK_OFF // images), "rule": "midpoint", "batch_size": ROWS_OF_BACK_OFF}
    rows: list[int] = []
    expected = xplain.attribute(classifier, x, "ig", **options).values
    classifier = load(model, device)  # without a limit of rows
    inference_copy(classifier)
    with occupied_memory(device, classifier, free):
        actual = xplain.attribute(classifier, x, "ig", progress=rows.append, **options).values
    cosine = float(torch.cosine_similarity(actual.flatten().double(), expected.flatten().double(), dim=0))
    failures = []
    if max(rows) >= ROWS_OF_BACK_OFF:
        failures.append(f"a call of {max(rows)} rows fitted in {free} bytes: the memory did not run out")
    if cosine < 0.999:
        failures.append(f"the cosine similarity with the result of full memory is {cosine:.5f}")
    forward_rows = rows_per_call(classifier, x.to(device), ROWS_OF_BACK_OFF, "forward")
    line = f"{free / GIBIBYTE:g} GiB free: {max(rows)} of {ROWS_OF_BACK_OFF} rows per gradient call, cosine similarity {cosine:.6f}."
    return PartResult("memory", failures, [line], {"rows": max(rows), "cosine": cosine, "forward_rows": forward_rows})


@contextmanager
def occupied_memory(device: str, classifier: xplain.Classifier, free: int) -> Iterator[None]:
    """Leave ``free`` bytes of the device's memory. On a CPU, let calls of more than 100 rows run out of memory instead."""
    if torch.device(device).type == "cpu":
        with _limited_rows(inference_copy(classifier), 100):
            yield
        return
    torch.cuda.empty_cache()
    available = torch.cuda.mem_get_info()[0]
    ballast = torch.empty(max(available - free, 0), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del ballast
        torch.cuda.empty_cache()


@contextmanager
def _limited_rows(module: nn.Module, limit: int) -> Iterator[None]:
    def check(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    handle = module.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def check_layouts(device: str, models: Sequence[str | nn.Module] = ("resnet50", "efficientnet-lite0")) -> PartResult:
    """Check that working copies are folded and in channels-last, and compare their speed with contiguous ones."""
    failures, data = [], []
    lines = ["| model | precision | channels-last, gradient rows/s | contiguous |", "|---|---|---|---|"]
    for model in models:
        classifier = load(model, device)
        copied = inference_copy(classifier)
        if any(isinstance(module, nn.BatchNorm2d) for module in copied.modules()):
            failures.append(f"{classifier.name}: a batch norm was not folded")
        if copied.memory_format != torch.channels_last:
            failures.append(f"{classifier.name}: the working copy is not in channels-last")
        contiguous = copy_classifier(copied).to(memory_format=torch.contiguous_format)
        contiguous.memory_format = torch.contiguous_format
        x = torch.rand(4, 3, *classifier.size, device=device)
        for precision in ("fp32", "bf16"):
            rates = []
            for variant in (copied, contiguous):
                plain = PlainModel(variant, precision, prepared=False)
                rates.append(find_best_batch_size(plain.gradient, x).rate)
            lines.append(f"| {classifier.name} | {precision} | {rates[0]:.4g} | {rates[1]:.4g} |")
            data.append({"model": classifier.name, "precision": precision, "rates": rates})
    return PartResult("layouts", failures, lines, data)


def run_bench(
    device: str, folder: Path, name: str, arguments: Sequence[str], timeout: float, *, peer: bool = True
) -> PartResult:
    """Run ``xplain bench`` in a process of its own. Results of a run that takes too long are kept as far as they go."""
    output = folder / name
    command = ["bench", *arguments, "--device", device, "-o", str(output)]
    lines = []
    if peer and importlib.util.find_spec("captum") is None:
        lines.append("captum is not installed; xplain was measured alone.")
    elif peer:
        command += ["--peer", "captum"]
    failures = []
    try:
        ran = run_xplain(*command, timeout=timeout)
        if ran.returncode:
            failures.append(f"xplain bench {' '.join(arguments)}: exit code {ran.returncode}: {_last_line(ran.stderr)}")
    except subprocess.TimeoutExpired:
        failures.append(f"xplain bench {' '.join(arguments)}: not finished after {timeout:.0f} s")
    table, records = output / "bench.md", output / "bench.json"
    lines.append(table.read_text("utf-8") if table.exists() else "No results.")
    data = json.loads(records.read_text("utf-8")) if records.exists() else None
    return PartResult(f"bench {name}", failures, lines, data)


def load(model: str | nn.Module, device: str) -> xplain.Classifier:
    """Load a model, with random weights if it would have to be downloaded."""
    needs_weights = isinstance(model, str) and model != "efficientnet-lite0"
    return xplain.load_classifier(model, device, weights="random" if needs_weights else None)


def run_xplain(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "xplain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def _format(number: float | None, spec: str) -> str:
    return "" if number is None else format(number, spec)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no message"
