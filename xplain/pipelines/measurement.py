"""Run metrics: ``measure`` for library users; check and resolve the metrics that commands request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.core.allocator import retain_freed_memory
from xplain.core.config import Choice
from xplain.core.errors import InputError, UnknownMethodError, UsageError, convert_device_errors
from xplain.core.options import ComputeOptions
from xplain.core.protocols import choose_metrics
from xplain.core.registry import METHODS, METRICS
from xplain.core.rng import preserve_random_state
from xplain.core.sweeps import parse_single
from xplain.core.types import Cost, EngineName, Precision, Score
from xplain.metrics.inputs import SAME_SETTINGS, Explain, MetricInput, Repeat
from xplain.models import Classifier, ScalarFunction
from xplain.models.arithmetic import reproducible_arithmetic
from xplain.models.devices import synchronize
from xplain.models.scalar_outputs import resolve_scalar_target
from xplain.oracle import Oracle
from xplain.oracle.access import check_access
from xplain.oracle.engine_choice import PlannedRows, choose_engine
from xplain.oracle.engines import use_engine
from xplain.oracle.scores import available_score
from xplain.oracle.targets import Classes, find_targets
from xplain.pipelines.arguments import (
    accept_any_range,
    check_attributions,
    check_boxes,
    check_corners,
    check_images,
    check_keywords,
    check_masks,
    check_progress,
    resolve_compute,
)
from xplain.pipelines.attribution import check_distinct, label_of, predict_finite
from xplain.pipelines.image_arguments import ModelLike, resolve_classifier
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_annotations import reads_path
from xplain.pipelines.metric_run import MetricRun, make_metric_oracle

AttributionFunction = Callable[[Classifier, Tensor, Tensor], Tensor]  # (classifier, images, target) -> attributions


@torch.inference_mode(mode=False)
def measure(
    classifier: ModelLike,
    images: Tensor,
    attributions: Tensor,
    metric: str,
    *,
    target: Classes | ScalarFunction | None = None,
    method: str | AttributionFunction | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    engine: EngineName = "torch",
    progress: Callable[[int], None] | None = None,
    **params: Any,
) -> Score:
    """Compute a metric for each image. Undefined values are NaN.

    Args:
        classifier: as in ``attribute``.
        images: float (B, C, H, W) in [0, 1], not normalized, on any device, a tensor or a NumPy array.
        attributions: (B, C or 1, H, W), raw and signed, from ``attribute`` or another program, a tensor or a NumPy array.
        metric: name of a metric, such as ``deletion``.
        target: target class, as in ``attribute``. Pass ``att.target`` if the explained class is not the predicted class.
        method: attribution method that produced the attributions. Required by metrics that rerun the method or that depend on the
            kind of attribution. ``NAME[:key=value,...]``, or a function (classifier, images, target) -> attributions. The completeness
            metrics rerun a named method with ``seed`` for the sums that its attributions should have.
        seed, precision, batch_size, engine, progress: as in ``attribute``.
        params: parameters of the metric. ``xplain list metrics --json`` lists them with their defaults.

    Returns:
        A Score with ``values`` of shape (B,), ``curve`` of shape (B, K + 1) or None, and ``undefined``, which maps each reason to a mask
        of shape (B,).

    Raises:
        UsageError: a name, value or shape is invalid, or the metric needs ``method``.
        InputError: images, logits or attributions are not finite, images are not in [0, 1], the model does not accept their size, or
            attributions have another size.
        DeviceError: one row does not fit into memory.

    Example:
        >>> score = xplain.measure(clf, x, att.values, "deletion", target=att.target, steps=28)
    """
    spec = METRICS.get(metric)
    check_keywords(measure, params, [*spec.parameters, *spec.parameter_aliases])
    classifier, classes = resolve_scalar_target(resolve_classifier(classifier, images=images), target)
    boxes = masks = None
    if reads_path(spec, "boxes") and isinstance(params.get("boxes"), Tensor | np.ndarray):
        boxes = check_boxes(params.pop("boxes"))
    if reads_path(spec, "masks") and isinstance(params.get("masks"), Tensor | np.ndarray):
        masks = check_masks(params.pop("masks"))
    metric_run = MetricRun.resolve(spec, params)
    compute = resolve_compute(seed, precision, batch_size, engine)
    check_progress(progress)
    _check_method(method)
    synchronize(classifier.device)
    started = time.perf_counter()
    images = check_images(classifier, images)
    attributions = check_attributions(classifier, attributions)
    _check_shapes(images, attributions, boxes, masks)
    classifier.inspect_first_images(images)
    check_metrics([metric_run], classifier)
    if isinstance(method, str) and metric_run.spec.needs & {"explain", "expected"}:
        rerun = METHODS.get(parse_single(method).name)
        check_access(classifier, rerun.access, rerun.name)
    rows = metric_run.spec.forwards(side=max(classifier.size), **metric_run.settings)
    chosen_engine = choose_engine(classifier, engine, precision, PlannedRows(rows * len(images), 0))
    with (
        retain_freed_memory(),
        reproducible_arithmetic(classifier.device),
        use_engine(classifier, chosen_engine),
        preserve_random_state(),
        convert_device_errors(),
    ):
        logits, cost = predict_finite(classifier, images, compute)
        targets = find_targets(classifier, classes, logits)
        oracle = make_metric_oracle(classifier, compute, progress)
        inputs = MetricInput(oracle, images, attributions, targets, boxes=boxes, masks=masks)
        explain = None if method is None else _make_explainer(oracle, method, images, compute)
        if isinstance(method, str):
            method_run = _resolve_method(method, classifier)
            inputs = replace(inputs, score=method_run.score, slopes=method_run.slopes)
            if "expected" in metric_run.spec.needs:
                inputs = replace(inputs, expected=_find_expected_sums(oracle, method, images, targets, compute))
        result = metric_run.measure(inputs, compute, explain)
    synchronize(classifier.device)
    return replace(result, cost=replace(oracle.cost + cost, seconds=time.perf_counter() - started))


def _check_shapes(
    images: Tensor, attributions: Tensor, boxes: Tensor | None = None, masks: Tensor | None = None
) -> None:
    """Raise InputError unless there is one map of the right size per image, and one list of boxes and of masks if there are any."""
    size, channels = (len(images), *images.shape[2:]), images.shape[1]
    if (len(attributions), *attributions.shape[2:]) != size or attributions.shape[1] not in (1, channels):
        raise InputError(
            f"attributions of shape {tuple(attributions.shape)} do not match images of shape {tuple(images.shape)}",
            "pass attributions of shape (B, C, H, W) or (B, 1, H, W)",
        )
    if boxes is not None and (boxes.ndim != 3 or len(boxes) != len(images) or boxes.shape[2] != 4):
        raise InputError(
            f"boxes of shape {tuple(boxes.shape)} do not match {len(images)} images",
            "pass boxes of shape (images, boxes, 4)",
        )
    if boxes is not None:
        check_corners(boxes)
    if masks is not None and (masks.ndim != 4 or (len(masks), *masks.shape[2:]) != size or not masks.shape[1]):
        raise InputError(
            f"masks of shape {tuple(masks.shape)} do not match images of shape {tuple(images.shape)}",
            "pass masks of shape (images, masks, height, width)",
        )


def _check_method(method: object) -> None:
    """Raise UsageError unless ``method`` is text, a function or None."""
    if method is not None and not isinstance(method, str) and not callable(method):
        raise UsageError(
            f"method is of type {type(method).__name__}",
            "pass NAME[:key=value,...] or a function (classifier, images, target) -> attributions",
        )


def _make_explainer(
    oracle: Oracle, method: str | AttributionFunction, images: Tensor, compute: ComputeOptions
) -> Explain:
    """Return a function with which metrics can rerun the method."""
    default = oracle.classifier
    if not isinstance(method, str):
        return _wrap_function(method, default)
    return _resolve_method(method, default).explainer(default, images, compute, oracle)


def _resolve_method(method: str, classifier: Classifier) -> MethodRun:
    """Return the method of a text ``NAME[:key=value,...]``."""
    choice = parse_single(method)
    spec = METHODS.get(choice.name)
    params = dict(choice.params)
    default = available_score(spec.score, classifier.output)
    return MethodRun.resolve(spec, params, classifier.preprocessing, score=default, output=classifier.output)


def _find_expected_sums(
    oracle: Oracle, method: str, images: Tensor, targets: Tensor, compute: ComputeOptions
) -> Tensor | None:
    """Return the sums (B,) that the attributions of a method should have, or None if it does not satisfy completeness.

    The method runs again, because the sums of some methods depend on the end points of their paths. Its forward rows are added to the
    cost of ``oracle`` as checks.
    """
    method_run = _resolve_method(method, oracle.classifier)
    result = method_run.attribute(oracle.classifier, images, targets, compute, flag_maps=False)
    cost = result.cost
    oracle.cost = oracle.cost + Cost(backwards=cost.backwards, checks=cost.forwards + cost.checks)
    return result.expected


def _wrap_function(method: AttributionFunction, default: Classifier) -> Explain:
    """Return a user's function as metrics call it. It raises InputError unless the result has the shape of attributions."""

    def explain(
        images: Tensor,
        y: Tensor,
        classifier: Classifier | None = None,
        image: Tensor | None = None,
        repeat: Repeat = SAME_SETTINGS,
    ) -> Tensor:
        if repeat != SAME_SETTINGS:
            raise UnknownMethodError(
                "a function cannot run with other draws or other arithmetic", "pass the name of a method"
            )
        with accept_any_range():  # metrics perturb images
            result = method(classifier or default, images, y)
        attributions = check_attributions(default, result, finite=False)
        _check_shapes(images, attributions)
        return attributions

    return explain


def resolve_metrics(protocol: str | None, choices: tuple[Choice, ...]) -> list[MetricRun]:
    """Resolve the metrics of a protocol or the requested metrics. Raise UsageError if one is invalid."""
    runs = []
    for choice in choose_metrics(protocol, choices):
        spec = METRICS.get(choice.name)
        shown = choice if spec.scope == "image" else without_trials(choice)
        runs.append(MetricRun.resolve(spec, dict(choice.params), label_of(shown, spec.name)))
    check_distinct((run.label for run in runs), "metric")
    return runs


def check_metrics(metrics: Sequence[MetricRun], classifier: Classifier) -> None:
    """Raise UsageError if the classifier does not offer what a metric needs."""
    for metric in metrics:
        check_access(classifier, metric.spec.access, metric.spec.name)


def without_trials(choice: Choice) -> Choice:
    """Remove the number of trials, which may be increased when a run is resumed."""
    params = [(key, value) for key, value in choice.params if key != "trials"]
    return Choice(choice.name, tuple(params))
