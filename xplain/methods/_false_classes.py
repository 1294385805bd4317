"""False classes: the classes that AGI and LA move an image toward."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.oracle import Oracle

NO_PATH = "the image is not classified as the target: no path leads away from it"
NO_FALSE_CLASS = "the model finds every label in the image: there is no false class to move to"
MISSING = -1  # in place of a false class, for images that have fewer than others


def choose_classes(
    oracle: Oracle, x: Tensor, y: Tensor, rng: Streams, count: int, against: Tensor | None, method: str
) -> Tensor:
    """Return the false classes (B, k) of each image: ``against``, or ``count`` random ones.

    Raises UsageError if the model returns values, which are no classes.
    """
    if not oracle.output.has_probabilities:
        raise UsageError(
            f"{method} requires false classes, but the model returns values",
            "use integrated-gradients, smoothgrad or occlusion",
        )
    return draw_classes(oracle, x, y, rng, count) if against is None else against


def draw_classes(oracle: Oracle, x: Tensor, y: Tensor, rng: Streams, count: int) -> Tensor:
    """Draw ``count`` distinct classes per image uniformly from all classes except the target.

    If several labels can be present in an image, they are drawn from the labels that the model does not find there.
    Returns (B, k), where k is less than ``count`` if the model has fewer other classes; ``MISSING`` fills the rows of images that
    have fewer than others. Raises UsageError if the model has no other class.
    """
    has_labels = oracle.output.activation == "sigmoid"
    logits = oracle.logits(x if has_labels else x[:1], check=True)
    total = logits.shape[1]
    if total < 2:
        raise UsageError("false classes require a model with at least two classes", "use another method")
    first_sample = torch.zeros(1, dtype=torch.long, device=x.device)
    keys = rng.uniform(first_sample, (total,), torch.float64)[:, 0]
    if has_labels:
        keys = keys.masked_fill(oracle.output.decisions(logits), 2.0)
    keys = keys.scatter(1, y[:, None], 2.0)  # the target sorts last
    drawn = keys.argsort(dim=1)[:, : min(count, total - 1)]
    return drawn.masked_fill(keys.gather(1, drawn) == 2.0, MISSING) if has_labels else drawn


def pair_images(false_classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images (R,) and the false classes (R,) of all pairs of an image and one of its false classes (B, k)."""
    exists = false_classes != MISSING
    images = torch.arange(len(false_classes), device=false_classes.device)[:, None].expand_as(false_classes)
    return images[exists], false_classes[exists]
