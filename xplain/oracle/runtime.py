"""Load a model as requested, predict, and keep memory and change detection out of the way while a command works."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from xplain.core.allocator import retain_freed_memory
from xplain.core.config import SIMILAR, ComputeOptions, ModelOptions
from xplain.core.types import Cost
from xplain.data.images import read_image
from xplain.models import Classifier, load_classifier, similarity
from xplain.models.optimize import freeze_version
from xplain.models.scalar_outputs import with_scalar_output
from xplain.oracle.oracle import Oracle


def load_model(options: ModelOptions, target: str = "auto") -> Classifier:
    """Load the classifier that the options name, on its device. Raises as ``load_classifier``.

    target: the value of ``--target``. For ``similar:IMAGE``, the only output of the classifier is the cosine similarity of the model's
    output to that of the image.
    """
    classifier = load_classifier(**vars(options))
    if target.startswith(SIMILAR):
        return _compare_with(classifier, Path(target.removeprefix(SIMILAR)))
    return classifier


def _compare_with(classifier: Classifier, path: Path) -> Classifier:
    """Return a classifier whose only output is the similarity to an image. Raises InputError if the file cannot be used."""
    image = read_image(path, preprocessing=classifier.preprocessing)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    label = f"similarity to {path.name}"
    return with_scalar_output(classifier, similarity(classifier, image), label=label, references={path.name: digest})


@contextmanager
def inference_session(classifier: Classifier) -> Iterator[None]:
    """Keep freed memory and skip change detection while the block runs; the classifier must not change meanwhile."""
    with retain_freed_memory(), freeze_version(classifier):
        yield


def predict(classifier: Classifier, images: Tensor, compute: ComputeOptions) -> tuple[Tensor, Cost]:
    """Return the logits (B, classes) of images (B, C, H, W), and their cost, counted as checks."""
    oracle = Oracle(classifier, batch_size=compute.batch_size, precision=compute.precision)
    return oracle.logits(images, check=True), oracle.cost
