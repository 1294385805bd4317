"""How a request is run: its classifier, and the seed, precision and rows a call that methods and metrics are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from xplain.core.allocator import retain_freed_memory
from xplain.core.config import Compute
from xplain.core.types import Cost, Precision
from xplain.models import Classifier, load_classifier
from xplain.models.optimize import freeze_version
from xplain.oracle.oracle import Oracle


@dataclass(frozen=True)
class Runtime:
    """How a method or metric is run: nothing here may change its numbers, but for precision and seed."""

    seed: int = 0
    precision: Precision = "fp32"
    batch_size: int | None = None  # None: auto
    progress: Callable[[int], None] | None = None  # called with the rows done by each model call

    @classmethod
    def of(cls, compute: Compute, progress: Callable[[int], None] | None = None) -> Runtime:
        """As a request says."""
        return cls(compute.seed, compute.precision, compute.batch_size, progress)


def load_model(compute: Compute) -> Classifier:
    """The classifier that a request names, on its device. Raises as ``load_classifier``."""
    return load_classifier(
        compute.model, compute.device, compute.weights, compute.classes, compute.image_size, compute.offline
    )


@contextmanager
def inference_session(classifier: Classifier) -> Iterator[None]:
    """Within, memory is reused and the classifier, which must not change, is looked at once."""
    with retain_freed_memory(), freeze_version(classifier):
        yield


def predict(classifier: Classifier, images: Tensor, runtime: Runtime) -> tuple[Tensor, Cost]:
    """(B, classes) logits of images (B, C, H, W), counted as checks."""
    oracle = Oracle(classifier, batch_size=runtime.batch_size, precision=runtime.precision)
    return oracle.logits(images, check=True), oracle.cost
