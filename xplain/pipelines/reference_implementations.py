"""The same methods as others run them, to be timed beside ours: captum, and loops such as the papers' programs are.

The loops are written from the papers' algorithms. All return what they computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.models import Classifier

Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Task:
    """Images (B, C, H, W) in [0, 1] to be explained for the classes y (B,), or measured by maps (B, 1, H, W)."""

    classifier: Classifier
    images: Tensor
    y: Tensor
    settings: Settings
    maps: Tensor


Run = Callable[[Task, int | None], Tensor]


@dataclass(frozen=True)
class Peer:
    """Another program's version of a method or metric.

    run(task, rows): rows a model call, None for the program's default. batched: it takes such a number.
    """

    program: str
    run: Run
    batched: bool = False


def find_peer(name: str) -> Peer | None:
    """The other version of a method or metric, if there is one. Raises UsageError when captum is not installed."""
    if name in _LOOPS:
        return _LOOPS[name]
    if name not in _CAPTUM:
        return None
    try:
        import captum  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError("--peer captum needs captum", "pip install 'xplain-vision[captum]'") from None
    run, batched = _CAPTUM[name]

    def quietly(task: Task, rows: int | None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(task, rows)

    return Peer("captum", quietly, batched)


# ------------------------------------------------------------------------ captum


def _simple(kind: str, **options: Any) -> Run:
    """A captum method without settings."""

    def run(task: Task, rows: int | None) -> Tensor:
        import captum.attr

        return getattr(captum.attr, kind)(task.classifier).attribute(task.images, target=task.y, **options)

    return run


def _integrated_gradients(task: Task, rows: int | None) -> Tensor:
    from captum.attr import IntegratedGradients

    steps = task.settings["steps"]
    return IntegratedGradients(task.classifier).attribute(
        task.images, torch.zeros_like(task.images), task.y, n_steps=steps, internal_batch_size=rows
    )


def _an_image(task: Task, rows: int | None) -> int | None:
    """Of so many rows a call those of each image, for versions that take all images into every call."""
    return rows and max(rows // len(task.images), 1)


def _smoothgrad(task: Task, rows: int | None) -> Tensor:
    from captum.attr import NoiseTunnel, Saliency

    return NoiseTunnel(Saliency(task.classifier)).attribute(
        task.images, nt_type="smoothgrad", nt_samples=task.settings["samples"], nt_samples_batch_size=_an_image(task, rows),
        stdevs=task.settings["noise"], target=task.y, abs=False,
    )  # fmt: skip


def _deeplift(task: Task, rows: int | None) -> Tensor:
    from captum.attr import DeepLift

    return DeepLift(task.classifier).attribute(task.images, torch.zeros_like(task.images), task.y)


def _occlusion(task: Task, rows: int | None) -> Tensor:
    from captum.attr import Occlusion

    window, stride, channels = task.settings["window"], task.settings["stride"], task.images.shape[1]
    return Occlusion(task.classifier).attribute(
        task.images, (channels, window, window), strides=(channels, stride, stride), target=task.y,
        perturbations_per_eval=_an_image(task, rows) or 1,
    )  # fmt: skip


_CAPTUM: dict[str, tuple[Run, bool]] = {
    "saliency": (_simple("Saliency", abs=False), False),
    "input-x-gradient": (_simple("InputXGradient"), False),
    "guided-backprop": (_simple("GuidedBackprop"), False),
    "deconvnet": (_simple("Deconvolution"), False),
    "integrated-gradients": (_integrated_gradients, True),
    "smoothgrad": (_smoothgrad, True),
    "deeplift": (_deeplift, False),
    "occlusion": (_occlusion, True),
}


# ------------------------------------------------------------------------- loops


def _agi(task: Task, rows: int | None) -> Tensor:
    """Batch 1; for each class and step one forward and two ``backward`` calls, which reach the parameters too."""
    totals = [
        sum((_agi_path(task, image, y, false) for false in other_classes(task, y)), torch.zeros_like(image))
        for image, y in zip(task.images.split(1), task.y.tolist(), strict=True)
    ]
    task.classifier.zero_grad()
    return torch.cat(totals)


def _agi_path(task: Task, image: Tensor, y: int, false: int) -> Tensor:
    model, point, total = task.classifier, image, torch.zeros_like(image)
    for _ in range(task.settings["steps"]):
        point = point.detach().requires_grad_()
        output = model(point).softmax(dim=1)
        if int(output.argmax()) == false:
            break
        gradients: list[Tensor] = []
        for index in (false, y):
            model.zero_grad()
            point.grad = None
            output[0, index].backward(retain_graph=index == false)
            assert point.grad is not None
            gradients.append(point.grad)
        origin = point if task.settings["variant"] == "paper" else image
        target = (origin + task.settings["step_size"] * gradients[0].sign()).clamp(0, 1).detach()
        total = total - gradients[1] * (target - origin.detach())
        point = target
    return total


def other_classes(task: Task, y: int) -> list[int]:
    """As many false classes as the method takes, evenly spread."""
    classes = task.classifier(task.images[:1]).shape[1]
    count = min(task.settings["classes"], classes - 1)
    return [(y + 1 + k * (classes - 1) // count) % classes for k in range(count)]


def _mfaba(task: Task, rows: int | None) -> Tensor:
    """Batch 1; at each step a forward and a ``backward`` that reaches the parameters, and a forward to read the label."""
    model, size, totals = task.classifier, task.settings["step_size"], list[Tensor]()
    for image, y in zip(task.images.split(1), task.y.tolist(), strict=True):
        point, path, slopes = image, [image], []
        for step in range(task.settings["steps"] + 1):
            point = point.detach().requires_grad_()
            model.zero_grad()
            model(point).softmax(dim=1)[0, y].backward()
            assert point.grad is not None
            slopes.append(point.grad)
            if step and int(model(point.detach()).argmax()) != y:
                break
            unit = point.grad.sign() if task.settings["ascent"] == "smooth" else _unit(point.grad)
            point = (point - size * unit).clamp(0, 1)
            path.append(point.detach())
        parts = [(slopes[k] + slopes[k + 1]) / 2 * (path[k] - path[k + 1]) for k in range(len(slopes) - 1)]
        totals.append(sum(parts, torch.zeros_like(image)))
    model.zero_grad()
    return torch.cat(totals)


def _unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)


def _curve(insert: bool) -> Run:
    """A curve by a loop that changes the next pixels in place, step by step, and collects the images into batches."""

    @torch.no_grad()
    def run(task: Task, rows: int | None) -> Tensor:
        areas = []
        for image, y, scores in zip(task.images, task.y.tolist(), task.maps, strict=True):
            start, end = (torch.zeros_like(image), image) if insert else (image, torch.zeros_like(image))
            current, batch, found = start.clone().flatten(1), [], []
            order = scores.sum(dim=0).flatten().argsort(descending=True)
            steps = task.settings["steps"] or max(image.shape[-2:])
            size = -(-len(order) // steps)
            for step in range(steps + 1):
                some = order[(step - 1) * size : step * size] if step else order[:0]
                current[:, some] = end.flatten(1)[:, some]
                batch.append(current.reshape(image.shape).clone())
                if len(batch) == (rows or 1) or step == steps:
                    found.append(task.classifier(torch.stack(batch)).softmax(dim=1)[:, y])
                    batch = []
            areas.append(torch.trapezoid(torch.cat(found)) / steps)
        return torch.stack(areas)

    return run


def _both(task: Task, rows: int | None) -> Tensor:
    return _curve(insert=True)(task, rows) - _curve(insert=False)(task, rows)


_LOOPS = {
    "agi": Peer("sequential loop", _agi),
    "mfaba": Peer("sequential loop", _mfaba),
    "insertion": Peer("stepwise loop", _curve(insert=True), batched=True),
    "deletion": Peer("stepwise loop", _curve(insert=False), batched=True),
    "difference": Peer("stepwise loop", _both, batched=True),
}
