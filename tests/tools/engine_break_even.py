"""Measure from how many rows OpenVINO repays its conversion: ``python -m tests.tools.engine_break_even`` (see ``--help``).

Builds the engine of a model twice, without and with stored graphs, and times PyTorch and the engine in turns on batches of noise images.
Prints, for forward passes and for gradients, the seconds of conversion, compilation and the whole start, the rows per second of both
(medians of the rounds, with the lowest and highest value), and the break-even rows: the seconds of the start, divided by the seconds
that the engine saves per row. Gradients need both graphs. ``--engine auto`` compares planned rows with ``FORWARD_ROWS`` and
``GRADIENT_ROWS`` of ``xplain.oracle.engine_choice``, which are estimates; set them to the figures of the column ``break-even``.

Run it on an idle machine: ``--rounds 5 --seconds 3``, a few minutes for EfficientNet-Lite0 on two cores. Other work on the machine
makes the figures meaningless; the first line prints the load. Graphs are stored in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import xplain
from xplain.core.types import Precision
from xplain.models import Classifier
from xplain.oracle import Oracle, engine_choice, openvino_engine
from xplain.oracle.engines import use_engine
from xplain.oracle.openvino_engine import OpenVinoEngine
from xplain.oracle.openvino_rows import RowGraph
from xplain.oracle.runtime import inference_session
from xplain.reports.tables import markdown_table

COLUMNS = (
    "passes",
    "conversion s",
    "compilation s",
    "start s",
    "start s, stored",
    "PyTorch rows/s",
    "OpenVINO rows/s",
    "break-even rows",
    "stored",
    "auto uses",
)


@dataclass
class Start:
    """Seconds until an engine can compute: of the conversion, of the compilation, and of everything."""

    conversion: float = 0.0
    compilation: float = 0.0
    whole: float = 0.0


def start_engine(
    classifier: Classifier, precision: Precision, x: Tensor, *, gradients: bool
) -> tuple[OpenVinoEngine, Start]:
    """Return an engine and the seconds that it takes until it has computed one row and many rows of x (rows, C, H, W)."""
    start = Start()
    with (
        _add_seconds(start, "conversion", openvino_engine, "convert_forward"),
        _add_seconds(start, "conversion", openvino_engine, "convert_gradient"),
        _add_seconds(start, "compilation", RowGraph, "_compile"),
    ):
        began = time.perf_counter()
        engine = OpenVinoEngine(classifier, gradients=gradients, precision=precision)
        engine.logits(x[:1])
        if gradients:
            engine.gradients(x[:1], torch.zeros(1, dtype=torch.long), "logit", None)
        start.whole = time.perf_counter() - began
    return engine, start


@contextmanager
def _add_seconds(start: Start, field: str, owner: Any, name: str) -> Iterator[None]:
    """Add the seconds of the calls of a function inside the block to a field."""
    function = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            setattr(start, field, getattr(start, field) + time.perf_counter() - began)

    with patch.object(owner, name, timed):
        yield


def measure_rates(works: Sequence[Callable[[], object]], rows: int, rounds: int, seconds: float) -> list[list[float]]:
    """Return the rows per second of each work in each round. The works take turns, each for at least ``seconds``."""
    rates: list[list[float]] = [[] for _ in works]
    for work in works:
        work()  # warm up
    for _ in range(rounds):
        for work, measured in zip(works, rates, strict=True):
            calls, began = 0, time.perf_counter()
            while not calls or time.perf_counter() - began < seconds:
                work()
                calls += 1
            measured.append(rows * calls / (time.perf_counter() - began))
    return rates


def find_break_even(seconds: float, slow: float, fast: float) -> float:
    """Return the rows from which ``seconds`` are repaid by ``fast`` instead of ``slow`` rows per second, infinity if never."""
    gain = 1 / slow - 1 / fast
    return seconds / gain if gain > 0 else float("inf")


def measure(classifier: Classifier, options: argparse.Namespace, *, gradients: bool) -> list[str]:
    """Return the row of the table for forward passes or gradients."""
    oracle = Oracle(classifier, precision=options.precision)
    shape = (classifier.input_channels, *classifier.size)
    x = torch.rand(options.rows or oracle.rows_per_call(torch.empty(1, *shape)), *shape)
    y = torch.zeros(len(x), dtype=torch.long)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder):
        _, first = start_engine(classifier, options.precision, x, gradients=gradients)
        engine, stored = start_engine(classifier, options.precision, x, gradients=gradients)
    if gradients and engine.gradient_problem:
        raise SystemExit(f"OpenVINO computes no gradients: {engine.gradient_problem}")

    def compute_in_torch() -> object:
        return oracle.gradients(x, y) if gradients else oracle.logits(x)

    def compute_in_engine() -> object:
        with use_engine(classifier, engine):
            return compute_in_torch()

    with inference_session(classifier):
        rates = measure_rates((compute_in_torch, compute_in_engine), len(x), options.rounds, options.seconds)
    slow, fast = map(median, rates)
    threshold = engine_choice.GRADIENT_ROWS if gradients else engine_choice.FORWARD_ROWS
    return [
        "gradients" if gradients else "forwards",
        *(f"{value:.1f}" for value in (first.conversion, first.compilation, first.whole, stored.whole)),
        *(f"{median(measured):.1f} ({min(measured):.1f} to {max(measured):.1f})" for measured in rates),
        *(f"{find_break_even(start.whole, slow, fast):.0f}" for start in (first, stored)),
        str(threshold),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="efficientnet-lite0")
    parser.add_argument("--weights", help="random: untrained, which needs no download")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="bf16 has no gradients")
    parser.add_argument("--rows", type=int, help="rows per call; default: as in the commands")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="least seconds per round and engine")
    options = parser.parse_args(arguments)
    classifier = xplain.load_classifier(options.model, weights=options.weights, device="cpu")
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {options.precision}"
    )
    kinds = (False, True) if options.precision == "fp32" else (False,)
    print(markdown_table(COLUMNS, [measure(classifier, options, gradients=gradients) for gradients in kinds]))


if __name__ == "__main__":
    main()
