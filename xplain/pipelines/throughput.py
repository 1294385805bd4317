"""How fast the bare model is: rows a second at its best batch size, in gradients and in forwards alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from xplain.core.allocator import default_allocator, retain_freed_memory
from xplain.core.errors import DeviceError, is_out_of_memory
from xplain.core.types import Precision
from xplain.models import Classifier
from xplain.models.optimize import inference_copy, tf32_flags
from xplain.pipelines.meter import time_of

CPU_SIZES, GPU_SIZES = (1, 2, 4, 8, 16, 32), (1, 4, 16, 32, 64, 128, 256)
CALLS = 2  # timed at each size, after one that is not; the faster counts


@dataclass(frozen=True, eq=False)
class Bare:
    """A model without a method.

    prepared: as the engine runs it (frozen, norms folded, laid out anew, memory kept); else as plain PyTorch runs it.
    """

    classifier: Classifier
    precision: Precision
    prepared: bool

    def memory(self) -> AbstractContextManager[None]:
        """How memory is handled while it runs."""
        return retain_freed_memory() if self.prepared else default_allocator()

    def logits(self, x: Tensor) -> Tensor:
        """(rows, classes)."""
        model = inference_copy(self.classifier) if self.prepared else self.classifier
        with at_precision(self.precision, x.device):
            return model(model.to_memory_format(x)).float()

    def forward(self, x: Tensor) -> None:
        """A forward pass alone."""
        with torch.no_grad():
            self.logits(x)

    def gradient(self, x: Tensor) -> None:
        """The gradient of the first logit at every row."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.grad(self.logits(x)[:, 0].sum(), x)


def at_precision(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic that the engine uses at this precision."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return tf32_flags(precision, device)


@dataclass(frozen=True)
class Best:
    """The batch size with the most rows a second, and the rates of all that were tried."""

    rows: int
    rates: dict[int, float]

    @property
    def rate(self) -> float:
        """Rows a second at the best size."""
        return self.rates[self.rows]

    def calls(self, seconds: float) -> int:
        """Calls that take these seconds or a little more."""
        return math.ceil(seconds * self.rate / self.rows)


def best_size(work: Callable[[Tensor], None], x: Tensor) -> Best:
    """Try growing batches until two in a row are slower than the best or one does not fit. x: (1 or more, C, H, W) images.

    Raises DeviceError where none fits.
    """
    rates: dict[int, float] = {}
    for size in CPU_SIZES if x.device.type == "cpu" else GPU_SIZES:
        batch = x[torch.arange(size, device=x.device) % len(x)]
        rate = _rate(work, batch)
        if rate is None:
            break
        rates[size] = rate
        if len(rates) > 2 and max(list(rates.values())[-2:]) < max(rates.values()):
            break
    if not rates:
        raise DeviceError(f"out of memory on {x.device} with one row", "use a smaller model or another --device")
    return Best(max(rates, key=rates.__getitem__), rates)


def _rate(work: Callable[[Tensor], None], batch: Tensor) -> float | None:
    """Rows a second, or None where memory is too small."""
    try:
        work(batch)
        return len(batch) / min(time_of(lambda: work(batch), batch.device) for _ in range(CALLS))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def ideal_seconds(forwards: float, backwards: float, forward_rate: float, gradient_rate: float) -> float:
    """What rows would take at the bare model's rates; a gradient row is a forward and a backward row."""
    backward = max(1 / gradient_rate - 1 / forward_rate, 0.0)
    return forwards / forward_rate + backwards * backward
