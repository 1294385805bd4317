"""False classes: the classes that AGI and LA move an image toward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.data.class_distances import read_class_distances
from xplain.oracle import Oracle
from xplain.oracle.class_vectors import find_class_vectors

Draw = Literal["random", "top", "near", "spread", "nearest"]
NO_PATH = "the image is not classified as the target: no path leads away from it"
NO_FALSE_CLASS = "the model finds every label in the image: there is no false class to move to"
MISSING = -1  # in place of a false class, for images that have fewer than others
DECIMALS = 12  # of distances between classes, so that equal ones stay equal in any batch


def choose_classes(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    rng: Streams,
    count: int,
    against: Tensor | None,
    method: str,
    draw: Draw = "random",
    distances: str | None = None,
) -> Tensor:
    """Return the false classes (B, k) of each image: ``against``, or those of ``draw_classes``.

    Raises UsageError if the model returns values, which are no classes, and for ``distances`` that ``draw`` does not use.
    """
    if not oracle.output.has_probabilities:
        raise UsageError(
            f"{method} requires false classes, but the model returns values",
            "use integrated-gradients, smoothgrad or occlusion",
        )
    if distances is not None and draw not in ("near", "spread"):
        raise UsageError(f"{method}: distances does not apply to draw={draw}", "use draw=near or draw=spread")
    return draw_classes(oracle, x, y, rng, count, draw, distances) if against is None else against


def draw_classes(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    rng: Streams,
    count: int,
    draw: Draw = "random",
    distances: str | None = None,
) -> Tensor:
    """Return ``count`` distinct classes per image, without the target.

    draw: ``random``: drawn uniformly. ``top`` or ``nearest``: the classes with the largest logits. ``near``: the classes closest to the
    target. ``spread``: one after the other, the class that is farthest from the target and the classes before it.
    distances: file of the distances for ``near`` and ``spread``; None: 1 - cosine between the rows of the last linear layer.

    If several labels can be present in an image, they are drawn from the labels that the model does not find there.
    Returns (B, k), where k is less than ``count`` if the model has fewer other classes; ``MISSING`` fills the rows of images that
    have fewer than others. Raises UsageError if the model has no other class, and for ``near`` and ``spread`` without distances if the
    network does not end in a linear layer.
    """
    has_labels = oracle.output.activation == "sigmoid"
    logits = oracle.logits(x if has_labels or draw in ("top", "nearest") else x[:1], check=True)
    total = logits.shape[1]
    if total < 2:
        raise UsageError("false classes require a model with at least two classes", "use another method")
    excluded = torch.zeros(len(x), total, dtype=torch.bool, device=x.device)
    if has_labels:
        excluded |= oracle.output.decisions(logits)
    excluded = excluded.scatter(1, y[:, None], True)
    count = min(count, total - 1)
    if draw in ("top", "nearest"):
        return _take_smallest(-logits.double(), excluded, count)
    if draw == "random":
        first_sample = torch.zeros(1, dtype=torch.long, device=x.device)
        return _take_smallest(rng.uniform(first_sample, (total,), torch.float64)[:, 0], excluded, count, stable=False)
    measure = _find_distances(oracle, x, total, draw, distances)
    if draw == "near":
        return _take_smallest(measure(y), excluded, count)
    return _take_farthest(measure, y, excluded, count)


def _take_smallest(keys: Tensor, excluded: Tensor, count: int, *, stable: bool = True) -> Tensor:
    """Return the classes (B, count) with the smallest keys (B, classes) that are not excluded, and MISSING where none is left."""
    keys = keys.masked_fill(excluded, torch.inf)
    chosen = keys.argsort(dim=1, stable=stable)[:, :count]
    return chosen.masked_fill(excluded.gather(1, chosen), MISSING)


def _take_farthest(measure: Callable[[Tensor], Tensor], y: Tensor, excluded: Tensor, count: int) -> Tensor:
    """Return classes (B, count), each with the largest distance to the closest of the target y and the classes before it."""
    nearest, excluded = measure(y), excluded.clone()
    columns = []
    for _ in range(count):
        chosen = nearest.masked_fill(excluded, -torch.inf).argmax(dim=1)
        columns.append(chosen.masked_fill(excluded.all(dim=1), MISSING))
        excluded.scatter_(1, chosen[:, None], True)
        nearest = torch.minimum(nearest, measure(chosen))
    return torch.stack(columns, dim=1)


def _find_distances(
    oracle: Oracle, x: Tensor, total: int, draw: str, distances: str | None
) -> Callable[[Tensor], Tensor]:
    """Return a function that returns the distances (B, classes) of all classes from the classes (B,)."""
    if distances is not None:
        matrix = torch.from_numpy(read_class_distances(distances, total)).to(x.device)
        return lambda classes: matrix[classes]
    vectors = torch.nn.functional.normalize(find_class_vectors(oracle, x, f"agi: draw={draw}"), dim=1)
    return lambda classes: (1 - vectors[classes] @ vectors.T).round(decimals=DECIMALS)


def pair_images(false_classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images (R,) and the false classes (R,) of all pairs of an image and one of its false classes (B, k)."""
    exists = false_classes != MISSING
    images = torch.arange(len(false_classes), device=false_classes.device)[:, None].expand_as(false_classes)
    return images[exists], false_classes[exists]
