"""False classes: the classes that AGI and LA move an image toward."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.oracle import Oracle

NO_PATH = "the image is not classified as the target: no path leads away from it"
NO_FALSE_CLASS = "the model finds every label in the image: there is no false class to move to"
MISSING = -1  # in place of a false class, for images that have fewer than others


def choose_classes(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    rng: Streams,
    count: int,
    against: Tensor | None,
    method: str,
    draw: Literal["random", "nearest"] = "random",
) -> Tensor:
    """Return the false classes (B, k) of each image: ``against``, or ``count`` random ones, or those with the largest logits.

    Raises UsageError if the model returns values, which are no classes.
    """
    if not oracle.output.has_probabilities:
        raise UsageError(
            f"{method} requires false classes, but the model returns values",
            "use integrated-gradients, smoothgrad or occlusion",
        )
    return draw_classes(oracle, x, y, rng, count, draw) if against is None else against


def draw_classes(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    rng: Streams,
    count: int,
    draw: Literal["random", "nearest"] = "random",
) -> Tensor:
    """Return ``count`` distinct classes per image, without the target: drawn uniformly, or the ``nearest``, with the largest logits.

    If several labels can be present in an image, they are drawn from the labels that the model does not find there.
    Returns (B, k), where k is less than ``count`` if the model has fewer other classes; ``MISSING`` fills the rows of images that
    have fewer than others. Raises UsageError if the model has no other class.
    """
    has_labels = oracle.output.activation == "sigmoid"
    logits = oracle.logits(x if has_labels or draw == "nearest" else x[:1], check=True)
    total = logits.shape[1]
    if total < 2:
        raise UsageError("false classes require a model with at least two classes", "use another method")
    if draw == "nearest":
        keys = -logits.double()
    else:
        first_sample = torch.zeros(1, dtype=torch.long, device=x.device)
        keys = rng.uniform(first_sample, (total,), torch.float64)[:, 0]
    if has_labels:
        keys = keys.masked_fill(oracle.output.decisions(logits), torch.inf)
    keys = keys.scatter(1, y[:, None], torch.inf)  # the target sorts last
    drawn = keys.argsort(dim=1, stable=draw == "nearest")[:, : min(count, total - 1)]
    return drawn.masked_fill(keys.gather(1, drawn) == torch.inf, MISSING) if has_labels else drawn


def pair_images(false_classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images (R,) and the false classes (R,) of all pairs of an image and one of its false classes (B, k)."""
    exists = false_classes != MISSING
    images = torch.arange(len(false_classes), device=false_classes.device)[:, None].expand_as(false_classes)
    return images[exists], false_classes[exists]
