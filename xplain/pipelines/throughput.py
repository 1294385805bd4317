"""Measure the throughput of the bare model in samples per second at its fastest batch size, with and without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from xplain.core.allocator import default_allocator, retain_freed_memory
from xplain.core.errors import DeviceError, is_out_of_memory
from xplain.core.types import Precision
from xplain.models import Classifier
from xplain.models.arithmetic import float32_precision
from xplain.models.optimize import inference_copy
from xplain.oracle.engines import Engine
from xplain.pipelines.timing import measure_seconds

CPU_SIZES, GPU_SIZES = (1, 2, 4, 8, 16, 32), (1, 4, 16, 32, 64, 128, 256)
TIMED_CALLS = 2  # timed calls per batch size after one warm-up call; the fastest is used


@dataclass(frozen=True, eq=False)
class PlainModel:
    """The bare model, without an attribution method.

    prepared: whether to apply the optimizations of xplain: frozen parameters, folded batch norms, optimized memory layout and retained
    memory.
    """

    classifier: Classifier
    precision: Precision
    prepared: bool

    def allocator(self) -> AbstractContextManager[None]:
        """Return a context manager that configures the memory allocator."""
        return retain_freed_memory() if self.prepared else default_allocator()

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (rows, classes) of images (rows, C, H, W)."""
        model = inference_copy(self.classifier) if self.prepared else self.classifier
        with _autocast(self.precision, x.device):
            return model(model.to_memory_format(x)).float()

    def forward(self, x: Tensor) -> None:
        """Run a forward pass without gradients."""
        with torch.no_grad(), float32_precision(self.precision, x.device):
            self.logits(x)

    def gradient(self, x: Tensor) -> None:
        """Compute the gradient of the first logit of each row with respect to the images."""
        x = x.detach().requires_grad_()
        with torch.enable_grad(), float32_precision(self.precision, x.device):
            torch.autograd.grad(self.logits(x)[:, 0].sum(), x)


@dataclass(frozen=True, eq=False)
class EngineModel:
    """The bare model in a compiled engine."""

    engine: Engine

    def forward(self, x: Tensor) -> None:
        """Compute the logits of images (rows, C, H, W)."""
        self.engine.logits(x)

    def gradient(self, x: Tensor) -> None:
        """Compute the gradient of the first logit of each row with respect to the images."""
        self.engine.gradients(x, torch.zeros(len(x), dtype=torch.long), "logit", None)

    def measure(self, images: Tensor) -> Throughput:
        """Find the fastest batch sizes on images (B, C, H, W)."""
        has_gradients = self.engine.describe()["gradients"] != "torch"
        gradients = find_best_batch_size(self.gradient, images) if has_gradients else None
        return Throughput(gradients, find_best_batch_size(self.forward, images))


@contextmanager
def at_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Set the precision as in ``attribute`` inside the block, also of backward passes."""
    with float32_precision(precision, device), _autocast(precision, device):
        yield


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@dataclass(frozen=True)
class BatchSizeSearch:
    """Result of a batch size search: the fastest batch size and the throughput of each batch size."""

    batch_size: int
    rates: dict[int, float]

    @property
    def rate(self) -> float:
        """Rows per second at the fastest batch size."""
        return self.rates[self.batch_size]

    def calls_for(self, seconds: float) -> int:
        """Return the smallest number of calls that take at least ``seconds`` at the fastest batch size."""
        return math.ceil(seconds * self.rate / self.batch_size)


@dataclass(frozen=True)
class Throughput:
    """Fastest batch sizes of the bare model for gradients, None if it has none, and for forward passes."""

    gradients: BatchSizeSearch | None
    forwards: BatchSizeSearch


def measure_throughput(model: PlainModel, images: Tensor) -> Throughput:
    """Find the fastest batch sizes of a model on images (B, C, H, W). Raises DeviceError if one row does not fit in memory."""
    with model.allocator():
        gradients = find_best_batch_size(model.gradient, images) if model.classifier.differentiable else None
        forwards = find_best_batch_size(model.forward, images)
    return Throughput(gradients, forwards)


def find_best_batch_size(work: Callable[[Tensor], None], images: Tensor) -> BatchSizeSearch:
    """Find the fastest batch size of ``work``. Images (B, C, H, W) are repeated to fill a batch.

    Batch sizes increase until two successive sizes are slower than the fastest one or a batch does not fit in memory.
    Raises DeviceError if one row does not fit.
    """
    rates: dict[int, float] = {}
    for size in CPU_SIZES if images.device.type == "cpu" else GPU_SIZES:
        rate = _measure_rate(work, repeat_to_size(images, size))
        if rate is None:
            break
        rates[size] = rate
        if len(rates) > 2 and max(list(rates.values())[-2:]) < max(rates.values()):
            break
    if not rates:
        raise DeviceError(
            f"out of memory on {images.device} with a single image", "use a smaller model or another --device"
        )
    return BatchSizeSearch(max(rates, key=rates.__getitem__), rates)


def repeat_to_size(images: Tensor, size: int) -> Tensor:
    """Return a batch of ``size`` images, cycling through ``images`` if there are too few."""
    return images[torch.arange(size, device=images.device) % len(images)]


def _measure_rate(work: Callable[[Tensor], None], batch: Tensor) -> float | None:
    """Return rows per second, or None if the batch does not fit in memory."""
    try:
        work(batch)
        seconds = [measure_seconds(lambda: work(batch), batch.device) for _ in range(TIMED_CALLS)]
        return len(batch) / min(seconds)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def ideal_seconds(forwards: float, backwards: float, forward_rate: float, gradient_rate: float) -> float:
    """Return the time that the bare model would take for the given passes. A gradient consists of one forward and one backward pass."""
    backward = max(1 / gradient_rate - 1 / forward_rate, 0.0)
    return forwards / forward_rate + backwards * backward
