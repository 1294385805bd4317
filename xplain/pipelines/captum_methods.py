"""Captum implementations of methods, with the same settings as in xplain. Captum is imported on first use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from xplain.pipelines.benchmark_case import Task
from xplain.reports.matplotlib_style import import_matplotlib

Run = Callable[[Task, int | None], Tensor]


def ignore_warnings(run: Run) -> Run:
    """Suppress the warnings of Captum, such as those about its hooks."""

    @wraps(run)
    def run_silently(task: Task, rows: int | None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_matplotlib()  # captum imports it, with the backend of the environment
            return run(task, rows)

    return run_silently


@ignore_warnings
def saliency(task: Task, rows: int | None) -> Tensor:
    """Run ``Saliency`` without absolute values. ``rows`` is ignored."""
    from captum.attr import Saliency

    return Saliency(task.classifier).attribute(task.images, target=task.targets, abs=False)


@ignore_warnings
def input_x_gradient(task: Task, rows: int | None) -> Tensor:
    """Run ``InputXGradient``; ``rows`` is ignored."""
    from captum.attr import InputXGradient

    return InputXGradient(task.classifier).attribute(task.images, target=task.targets)


@ignore_warnings
def guided_backprop(task: Task, rows: int | None) -> Tensor:
    """Run ``GuidedBackprop``; ``rows`` is ignored."""
    from captum.attr import GuidedBackprop

    return GuidedBackprop(task.classifier).attribute(task.images, target=task.targets)


@ignore_warnings
def deconvnet(task: Task, rows: int | None) -> Tensor:
    """Run ``Deconvolution``; ``rows`` is ignored."""
    from captum.attr import Deconvolution

    return Deconvolution(task.classifier).attribute(task.images, target=task.targets)


@ignore_warnings
def integrated_gradients(task: Task, rows: int | None) -> Tensor:
    """Run ``IntegratedGradients`` with a black baseline and ``rows`` samples per forward pass."""
    from captum.attr import IntegratedGradients

    return IntegratedGradients(task.classifier).attribute(
        task.images,
        torch.zeros_like(task.images),
        task.targets,
        n_steps=task.settings["steps"],
        internal_batch_size=rows,
    )


@ignore_warnings
def smoothgrad(task: Task, rows: int | None) -> Tensor:
    """Run ``Saliency`` with ``NoiseTunnel``, with about ``rows`` samples per forward pass."""
    from captum.attr import NoiseTunnel, Saliency

    return NoiseTunnel(Saliency(task.classifier)).attribute(
        task.images,
        nt_type="smoothgrad",
        nt_samples=task.settings["samples"],
        nt_samples_batch_size=_rows_per_image(task, rows),
        stdevs=task.settings["noise"],
        target=task.targets,
        abs=False,
    )


@ignore_warnings
def deeplift(task: Task, rows: int | None) -> Tensor:
    """Run ``DeepLift`` with a black baseline; ``rows`` is ignored."""
    from captum.attr import DeepLift

    return DeepLift(task.classifier).attribute(task.images, torch.zeros_like(task.images), task.targets)


@ignore_warnings
def occlusion(task: Task, rows: int | None) -> Tensor:
    """Run ``Occlusion`` with about ``rows`` samples per forward pass. The Captum default is one sample per image."""
    from captum.attr import Occlusion

    window, stride, channels = task.settings["window"], task.settings["stride"], task.images.shape[1]
    return Occlusion(task.classifier).attribute(
        task.images,
        (channels, window, window),
        strides=(channels, stride, stride),
        target=task.targets,
        perturbations_per_eval=_rows_per_image(task, rows) or 1,
    )


def _rows_per_image(task: Task, rows: int | None) -> int | None:
    """Return the number of samples per image and forward pass, for Captum methods that always process all images together."""
    return None if rows is None else max(rows // len(task.images), 1)
