"""Measure how busy ``xplain evaluate`` keeps a fast engine: ``python -m tests.tools.engine_idle`` (see ``--help``).

The engine is a network that sleeps for a fixed time per row, as a device that computes beside the CPU does. It runs
``evaluate -a saliency -M deletion:steps=7`` on small photographs, and prints the share of the time in which the engine computes and in
which it waits for images, the images per second and the resident memory by quarter of the images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.integration.test_soak import resident_mebibytes
from xplain.core.config import Choice, EvaluateConfig
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.data.prefetch import prefetch_images
from xplain.models import Classifier
from xplain.pipelines import batches, evaluation_plan
from xplain.pipelines.evaluate import evaluate

SIDE = 64  # of the model's input, in pixels
SIZES = ((240, 320), (320, 240), (300, 400))  # of the photographs


@dataclass
class Engine:
    """How long the engine computes per row, and when it computed."""

    seconds_per_row: float
    spans: list[tuple[float, float]] = field(default_factory=list)

    def compute(self, rows: int) -> None:
        """Wait as long as the engine takes for some rows."""
        start = time.perf_counter()
        time.sleep(self.seconds_per_row * rows)
        self.spans.append((start, time.perf_counter()))


class Sleep(torch.autograd.Function):
    """The identity, which takes the engine's time in both directions."""

    engine: Engine

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        Sleep.engine.compute(len(x))
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        Sleep.engine.compute(2 * len(gradient))
        return gradient


class Network(nn.Module):
    """A network without arithmetic of note."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 5) of images (B, 3, H, W)."""
        pooled = nn.functional.avg_pool2d(Sleep.apply(x), SIDE // 4)
        return self.head(pooled.flatten(1))


def make_photographs(folder: Path, count: int) -> None:
    """Write noise photographs as JPEG files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    base = [rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8) for height, width in SIZES]
    for k in range(count):
        height, width = SIZES[k % len(SIZES)]
        noise = Image.fromarray(np.roll(base[k % len(SIZES)], k, axis=1)).resize((width, height))
        noise.save(folder / f"{k:05}.jpg", quality=85)


@dataclass
class Result:
    """The share of the time in which the engine computes, and in which the command waits for images; images/s; MiB by quarter."""

    busy: float
    waiting: float
    images_per_second: float
    memory: list[float]


def measure(folder: Path, seconds_per_row: float, methods: list[str]) -> Result:
    """Evaluate the methods on the photographs of a folder."""
    torch.manual_seed(0)
    network, engine = Network(), Engine(seconds_per_row)
    Sleep.engine = engine
    classifier = xplain_classifier(network)
    memory: list[tuple[int, float]] = []
    waits: list[float] = []

    def timed_prefetch(*arguments: Any) -> Iterator[Any]:
        groups = iter(prefetch_images(*arguments))
        while True:
            start = time.perf_counter()
            group = next(groups, None)
            waits.append(time.perf_counter() - start)
            if group is None:
                return
            yield group

    with (
        tempfile.TemporaryDirectory() as output,
        patch.object(evaluation_plan, "load_model", lambda *_: classifier),
        patch.object(batches, "prefetch_images", timed_prefetch),
    ):
        config = EvaluateConfig(
            ModelOptions(device="cpu"),
            ComputeOptions(),
            str(folder),
            tuple(Choice.parse(method) for method in methods),
            (Choice("deletion", (("steps", "7"),)),),
            Path(output) / "run",
        )
        started = time.perf_counter()
        failures = list(evaluate(config, lambda done, total: memory.append((int(done), resident_mebibytes()))))
        seconds = time.perf_counter() - started
    assert not failures
    first, last = engine.spans[2][0], engine.spans[-1][1]  # without the inspection of the model
    busy = sum(stop - start for start, stop in engine.spans[2:]) / (last - first)
    total = memory[-1][0]
    quarters = [
        float(np.mean([size for done, size in memory if k * total / 4 < done <= (k + 1) * total / 4])) for k in range(4)
    ]
    return Result(busy, sum(waits[1:]) / (last - first), total / seconds, quarters)  # the first group is not read ahead


def xplain_classifier(network: nn.Module) -> Classifier:
    """Return the network as a classifier."""
    import xplain

    classifier = xplain.load_classifier(network, size=SIDE, activation="softmax", device="cpu")
    assert isinstance(classifier, Classifier)
    return classifier


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rows-per-second", type=float, nargs="*", default=[2000, 5000, 20000])
    parser.add_argument("--methods", nargs="*", default=["saliency"])
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.images} images")
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        make_photographs(photographs, options.images)
        for rate in options.rows_per_second:
            result = measure(photographs, 1 / rate, options.methods)
            sizes = " ".join(f"{size:.0f}" for size in result.memory)
            print(
                f"engine of {rate:.0f} rows/s: busy {result.busy:.2f}, waits for images {result.waiting:.2f}, "
                f"{result.images_per_second:.0f} images/s, resident MiB {sizes}",
                flush=True,
            )


if __name__ == "__main__":
    main()
