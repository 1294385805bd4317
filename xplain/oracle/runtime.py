"""Load a model as requested, predict, and keep memory and change detection out of the way while a command works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from xplain.core.allocator import retain_freed_memory
from xplain.core.config import ComputeOptions, ModelOptions
from xplain.core.types import Cost
from xplain.models import Classifier, load_classifier
from xplain.models.optimize import freeze_version
from xplain.oracle.oracle import Oracle


def load_model(options: ModelOptions) -> Classifier:
    """Load the classifier that the options name, on its device. Raises as ``load_classifier``."""
    values = dict(vars(options))
    prompts, templates = values.pop("prompt"), values.pop("template")
    return load_classifier(**values, prompts=prompts, templates=templates)


@contextmanager
def inference_session(classifier: Classifier) -> Iterator[None]:
    """Keep freed memory and skip change detection while the block runs; the classifier must not change meanwhile."""
    with retain_freed_memory(), freeze_version(classifier):
        yield


def predict(classifier: Classifier, images: Tensor, compute: ComputeOptions) -> tuple[Tensor, Cost]:
    """Return the logits (B, classes) of images (B, C, H, W), and their cost, counted as checks."""
    oracle = Oracle(classifier, batch_size=compute.batch_size, precision=compute.precision)
    return oracle.logits(images, check=True), oracle.cost
