"""Simple reference implementations of AGI, MFABA and the insertion and deletion curves, organized like the reference code of the papers.

They are written from the algorithms in the papers and serve as references for speed and correctness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xplain.models import Classifier
from xplain.pipelines.benchmark_case import Task


def agi(task: Task, rows: int | None) -> Tensor:
    """Compute AGI for one image, class and step at a time. ``rows`` is ignored.

    Each step runs one forward and two ``backward`` calls, which also compute the gradients of the parameters.
    """
    totals = []
    for image, target in zip(task.images.split(1), task.targets.tolist(), strict=True):
        paths = (_agi_path(task, image, target, false) for false in choose_false_classes(task, target))
        totals.append(sum(paths, torch.zeros_like(image)))
    task.classifier.zero_grad()
    return torch.cat(totals)


def choose_false_classes(task: Task, target: int) -> list[int]:
    """Return evenly spaced false classes, as many as the parameter ``classes`` specifies."""
    classes = task.classifier(task.images[:1]).shape[1]
    count = min(task.settings["classes"], classes - 1)
    return [(target + 1 + k * (classes - 1) // count) % classes for k in range(count)]


def _agi_path(task: Task, image: Tensor, target: int, false: int) -> Tensor:
    """Return the contribution (1, C, H, W) of one path from the image toward a false class."""
    model, point, total = task.classifier, image, torch.zeros_like(image)
    for _ in range(task.settings["steps"]):
        point = point.detach().requires_grad_()
        logits = model(point)
        if bool(model.output.decisions(logits)[0, false]):
            break
        output = model.output.probabilities(logits)
        gradients: list[Tensor] = []
        for index in (false, target):
            model.zero_grad()
            point.grad = None
            output[0, index].backward(retain_graph=index == false)
            assert point.grad is not None
            gradients.append(point.grad)
        origin = point if task.settings["variant"] == "paper" else image
        moved = (origin + task.settings["step_size"] * gradients[0].sign()).clamp(0, 1).detach()
        total = total - gradients[1] * (moved - origin.detach())
        point = moved
    return total


def mfaba(task: Task, rows: int | None) -> Tensor:
    """Compute MFABA for one image and step at a time. ``rows`` is ignored.

    Each step runs one forward and one backward pass, which also computes parameter gradients, and a second forward pass to obtain the
    predicted class.
    """
    totals = []
    for image, target in zip(task.images.split(1), task.targets.tolist(), strict=True):
        points, gradients = _mfaba_path(task, image, target)
        totals.append(_integrate_path(points, gradients))
    task.classifier.zero_grad()
    return torch.cat(totals)


def _mfaba_path(task: Task, image: Tensor, target: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the points (1, C, H, W) of the attack, until the predicted class changes, and the gradients at them."""
    model, step_size = task.classifier, task.settings["step_size"]
    point, points, gradients = image, [image], []
    for step in range(task.settings["steps"] + 1):
        point = point.detach().requires_grad_()
        model.zero_grad()
        model.output.probabilities(model(point))[0, target].backward()
        assert point.grad is not None
        gradients.append(point.grad)
        if step and _is_decided_against(model, point.detach(), target):
            break
        direction = point.grad.sign() if task.settings["ascent"] == "smooth" else _to_unit_norm(point.grad)
        point = (point - step_size * direction).clamp(0, 1)
        points.append(point.detach())
    return points, gradients


def _is_decided_against(model: Classifier, point: Tensor, target: int) -> bool:
    """Return whether the model decides against the target; false for values without a threshold."""
    return model.output.has_decisions and not bool(model.output.decisions(model(point))[0, target])


def _integrate_path(points: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Integrate the gradients along the path by the trapezoidal rule."""
    parts = [(gradients[k] + gradients[k + 1]) / 2 * (points[k] - points[k + 1]) for k in range(len(gradients) - 1)]
    return sum(parts, torch.zeros_like(points[0]))


def _to_unit_norm(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)


def insertion(task: Task, rows: int | None) -> Tensor:
    """Return the areas (B,) under the insertion curves, with batch size ``rows`` (default: 1)."""
    return _compute_areas(task, rows, is_insertion=True)


def deletion(task: Task, rows: int | None) -> Tensor:
    """Return the areas (B,) under the deletion curves, ``rows`` images per model call (default 1)."""
    return _compute_areas(task, rows, is_insertion=False)


def difference(task: Task, rows: int | None) -> Tensor:
    """Return insertion minus deletion (B,)."""
    return insertion(task, rows) - deletion(task, rows)


@torch.no_grad()
def _compute_areas(task: Task, rows: int | None, *, is_insertion: bool) -> Tensor:
    """Compute the area under the curve of each image."""
    areas = []
    for image, target, scores in zip(task.images, task.targets.tolist(), task.maps, strict=True):
        black = torch.zeros_like(image)
        start, end = (black, image) if is_insertion else (image, black)
        steps = task.settings["steps"] or max(image.shape[-2:])
        order = scores.sum(dim=0).flatten().argsort(descending=True)
        curve = _compute_curve(task, start, end, order, target, steps, rows or 1)
        areas.append(torch.trapezoid(curve) / steps)
    return torch.stack(areas)


def _compute_curve(task: Task, start: Tensor, end: Tensor, order: Tensor, target: int, steps: int, rows: int) -> Tensor:
    """Return the probabilities, or values, (steps + 1,) of the target class while pixels of ``start`` are replaced by those of ``end``.

    start, end: (C, H, W). order: (H * W,), pixel indices in the order of replacement. Pixels are replaced in place, and copies of the image
    are collected into batches of ``rows``.
    """
    current, pixels = start.clone().flatten(1), end.flatten(1)
    size = -(-len(order) // steps)
    batch: list[Tensor] = []
    probabilities = []
    for step in range(steps + 1):
        replaced = order[(step - 1) * size : step * size] if step else order[:0]
        current[:, replaced] = pixels[:, replaced]
        batch.append(current.reshape(start.shape).clone())
        if len(batch) == rows or step == steps:
            logits = task.classifier(torch.stack(batch))
            probabilities.append(task.classifier.output.probabilities(logits)[:, target])
            batch = []
    return torch.cat(probabilities)
