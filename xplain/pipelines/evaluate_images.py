"""``xplain.evaluate``: evaluate methods on a data set in one call, with the engine of the command and without files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Never

import torch
from torch import nn

from xplain.core.config import Choice, EvaluateConfig, PerClassOrder
from xplain.core.errors import InputError, UsageError
from xplain.core.options import ModelOptions
from xplain.core.run_store import read_run
from xplain.core.sweeps import parse_choices
from xplain.core.types import EngineName, Interval, Precision
from xplain.data.datasets import Item
from xplain.data.loading import load_image
from xplain.models import Classifier
from xplain.models.assumed_input import note_size
from xplain.models.channels import learn_channels
from xplain.models.layer_names import find_layer_name
from xplain.pipelines.arguments import check_keywords, check_score_text, resolve_compute
from xplain.pipelines.data_arguments import make_items
from xplain.pipelines.evaluate import run_plan
from xplain.pipelines.evaluation_plan import load_plan
from xplain.pipelines.image_arguments import ModelLike, resolve_classifier
from xplain.pipelines.measurement import resolve_metrics
from xplain.pipelines.progress import OnProgress, ignore_progress
from xplain.reports.evaluation import Evaluation
from xplain.reports.summary import summarize

IN_MEMORY = "images in memory"  # the location of data that is not on disk, in summaries


def evaluate(
    model: ModelLike,
    data: object,
    methods: str | Sequence[str] = "neflag",
    metrics: str | Sequence[str] = (),
    *,
    target: str = "auto",
    labels: object = None,
    limit: int | None = None,
    per_class: int | None = None,
    per_class_order: PerClassOrder | None = None,
    protocol: str | None = None,
    score: str | None = None,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    layout: str | None = None,
    interval: Interval = "percentile",
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    device: str | torch.device = "auto",
    engine: EngineName = "torch",
    progress: OnProgress | None = None,
    **unknown: Never,
) -> Evaluation:
    """Evaluate attribution methods on a data set, as ``xplain evaluate`` does. The random control is included.

    Args:
        model: a classifier of ``load_classifier``, or what it loads: the name of a model, or an nn.Module.
        data: a directory, list file, tar shards or ``torchvision:NAME:ROOT``, as for the command; a data set of PyTorch, whose elements
            are read when they are needed; a loader, whose images are kept in memory; a list of images, or a batch (B, C, H, W). Elements
            are images, pairs (image, label) or dictionaries; images as for ``explain``: not normalized.
        methods: names of methods, each ``NAME[:key=value,...]``.
        metrics: names of metrics; by default those of ``protocol``, or insertion and deletion.
        target: the class to explain: ``auto`` (the predicted class) or ``label``.
        labels: one class per image; or a table of file names and classes for a directory of images. Default: those of the data.
        limit, per_class, per_class_order: which images are evaluated: at most ``limit`` at even distances, and ``per_class`` of each class.
        protocol: predefined metrics: xplain, rise, agi, mfaba, neflag or dga.
        score: the explained output, as in ``attribute``.
        layer, layout: of layer-based methods, as in ``attribute``.
        interval: kind of the bootstrap intervals, ``percentile`` or ``bca``.
        seed, precision, batch_size, engine: as in ``attribute``.
        device: device of a model that is not a classifier yet.
        progress: callback that receives the numbers of finished images and of all images.
        unknown: no other argument is accepted; the error names a similar one.

    Returns:
        An Evaluation with ``summary()``, ``to_pandas()`` and ``rows``, one per image, method and metric. Images that cannot be used
        are listed in ``failures``.

    Raises:
        UsageError: a name, value or type is invalid.
        InputError: no image can be used, or the first one cannot, for example because it is normalized.
        DeviceError: one row does not fit into memory.

    Example:
        >>> evaluation = xplain.evaluate(net, loader, ["ig", "neflag"], ["insertion", "deletion"], limit=100)
        >>> print(evaluation)
    """
    check_keywords(evaluate, unknown)
    if target not in ("auto", "label"):
        raise UsageError(f"evaluate does not support target {target!r}", "use auto or label")
    if per_class_order is not None and per_class is None:
        raise UsageError("per_class_order requires per_class", "set per_class")
    _check_counts(limit=limit, per_class=per_class)
    classifier = resolve_classifier(model, device)
    is_on_disk = isinstance(data, str | PathLike)
    with tempfile.TemporaryDirectory(prefix="xplain-") as folder:
        config = EvaluateConfig(
            ModelOptions(name=classifier.name),
            resolve_compute(seed, precision, batch_size, engine),
            dataset=_read_location(data) if is_on_disk else IN_MEMORY,
            methods=parse_choices(methods),
            metrics=tuple(map(Choice.parse, [metrics] if isinstance(metrics, str) else metrics)),
            output=Path(folder) / "run",
            protocol=protocol,
            target=target,
            score=None if score is None else check_score_text(score),
            layer=None if layer is None else find_layer_name(classifier, layer),
            layout=layout,
            limit=limit,
            per_class=per_class,
            per_class_order=per_class_order,
            labels=_read_table(labels) if is_on_disk else None,
            interval=interval,
        )
        _refuse_training(config)
        chosen = limit if per_class is None else None  # per_class comes first, and needs the labels of all images
        items = None if is_on_disk else make_items(classifier, data, labels, limit=chosen)
        if items is None or items[0].source.pixels is None:
            note_size(classifier)
        if items is not None:
            _inspect(classifier, items[0])
        return _run(config, classifier, items, progress or ignore_progress)


def _run(
    config: EvaluateConfig, classifier: Classifier, items: list[Item] | None, progress: Callable[[float, float], None]
) -> Evaluation:
    """Evaluate, and return the content of the run directory. Raises the first failure if no image could be evaluated."""
    plan = load_plan(config, classifier, items)
    assert plan is not None  # there is a metric of single images
    failures = list(run_plan(plan, progress))
    description, stored = read_run(config.output)
    records = list(stored)
    summary = summarize(description, records, config.interval, frozenset(item.key for item in plan.items))
    if failures and not summary["items"]["evaluated"]:
        raise failures[0].error
    return Evaluation(summary, records, failures)


def _refuse_training(config: EvaluateConfig) -> None:
    """Raise UsageError for metrics that train networks."""
    for metric in resolve_metrics(config.protocol, config.metrics):
        if metric.spec.scope == "dataset":
            raise UsageError(
                f"{metric.spec.name} trains networks of its own, which evaluate does not do in Python",
                "use the command xplain evaluate",
            )


def _inspect(classifier: Classifier, item: Item) -> None:
    """Inspect a model whose input size or channels are not known yet with the first image. Raises InputError if it is unusable."""
    if classifier.pending_inspection is None and classifier.has_known_channels:
        return
    image = load_image(item.source, classifier.preprocessing).pixels[None].to(classifier.device, classifier.dtype)
    if not classifier.has_known_channels:
        learn_channels(classifier, image)
    classifier.inspect_first_images(image)


def _check_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise UsageError(f"invalid {name} {count!r}", "use a whole number of at least 1")


def _read_location(data: Any) -> str:
    location = fspath(data)
    if not isinstance(location, str):
        raise UsageError(f"the data is {data!r}", "pass a path as text")
    return location


def _read_table(labels: object) -> str | None:
    """Return the path of a table of labels. Raises InputError for labels in memory, whose images are on disk."""
    if labels is None or isinstance(labels, str | PathLike):
        return None if labels is None else str(labels)
    raise InputError(
        f"the labels of images on disk are of type {type(labels).__name__}", "pass a table of file names and classes"
    )
