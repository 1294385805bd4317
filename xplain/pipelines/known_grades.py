"""Run a metric on maps of known quality."""

from __future__ import annotations

import math
from typing import Any

import torch

from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions
from xplain.known.ladder import BEST, RUNGS, make_ladder, rung_name
from xplain.known.truth import Planted
from xplain.metrics.inputs import MetricInput
from xplain.metrics.relevance_auroc import area_under_roc
from xplain.models import Classifier
from xplain.pipelines.known_faults import FaultyMethod, find_fault
from xplain.pipelines.metric_annotations import reads_path
from xplain.pipelines.metric_run import MetricRun, make_metric_oracle

OWN_ANNOTATION = ("masks", "boxes", "categories")  # parameters that the truth replaces


def check_gradable(metric: MetricRun) -> None:
    """Raise UsageError for a metric that cannot be graded on maps."""
    spec = metric.spec
    hint = "choose a metric that evaluates maps, such as deletion"
    if spec.scope != "image":
        raise UsageError(f"{metric.label} trains networks on a data set and cannot be graded on known truth", hint)
    if spec.needs & {"explain", "expected", "load"} and find_fault(spec) is None:
        raise UsageError(f"{metric.label} requires the method of a map and cannot be graded on known truth", hint)
    if spec.better == "neither":
        raise UsageError(f"{metric.label} has no better direction and cannot be graded", hint)
    given = [name for name in OWN_ANNOTATION if reads_path(spec, name) and metric.settings[name] is not None]
    if given:
        raise UsageError(f"{metric.label} reads {given[0]}, but the relevant pixels are known", f"remove {given[0]}=")


def grade_metric(
    metric: MetricRun, classifier: Classifier, planted: Planted, i: int, key: str, compute: ComputeOptions
) -> dict[str, Any]:
    """Return ``values``: the value of a metric by the name of a map, None if it is undefined.

    The maps are those of the ladder of image ``i``, and ``blur_auroc`` has the quality of the blurred ones. For a metric that runs the
    method again, they are of methods with more and more of the fault that the metric is made for.
    key: name of the image.
    """
    fault = find_fault(metric.spec)
    if fault is None:
        return _grade_on_ladder(metric, classifier, planted, i, key, compute)
    image = planted.images[i : i + 1].to(classifier.device, classifier.dtype)
    y = planted.targets[i : i + 1].to(classifier.device)
    values = {}
    for share in RUNGS:
        explain = FaultyMethod(classifier, fault, share)
        oracle = make_metric_oracle(classifier, compute)
        inputs = MetricInput(oracle, image, explain(image, y), y, score="logit", slopes=False)
        (value,) = metric.measure(inputs, compute, explain).cpu().values.tolist()
        values[rung_name(fault, share)] = None if math.isnan(value) else value
    return {"values": values}


def _grade_on_ladder(
    metric: MetricRun, classifier: Classifier, planted: Planted, i: int, key: str, compute: ComputeOptions
) -> dict[str, Any]:
    """Return the values of a metric that evaluates maps. The relevant pixels are the mask of metrics of localization."""
    assert planted.relevant is not None
    maps = make_ladder(planted, i, compute.seed, key)
    stacked = torch.stack(list(maps.values())).to(classifier.device, classifier.dtype)
    count = len(maps)
    image = planted.images[i : i + 1].to(classifier.device, classifier.dtype)
    relevant = planted.relevant[i]
    inputs = MetricInput(
        make_metric_oracle(classifier, compute),
        image.expand(count, -1, -1, -1).contiguous(),
        stacked,
        planted.targets[i : i + 1].to(classifier.device).expand(count),
        masks=relevant.expand(count, 1, -1, -1) if reads_path(metric.spec, "masks") else None,
        score="logit",
        slopes=False,
    )
    values = metric.measure(inputs, compute).cpu().values.tolist()
    counted = ~relevant.flatten().isnan()
    inside = relevant.flatten()[counted] == 1
    aurocs = []
    for share in RUNGS:
        blurred = maps[rung_name("blur", share) if share else BEST].flatten()
        aurocs.append(
            float(area_under_roc(blurred[counted].abs() if planted.has_negative else blurred[counted], inside))
        )
    return {
        "values": {name: None if math.isnan(value) else value for name, value in zip(maps, values, strict=True)},
        "blur_auroc": aurocs,
    }
