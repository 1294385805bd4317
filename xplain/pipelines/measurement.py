"""Run metrics: ``measure`` for library users and ``MetricRun`` for the commands."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.core.allocator import retain_freed_memory
from xplain.core.config import Choice, ComputeOptions
from xplain.core.errors import InputError, UnknownMethodError, UsageError, emit_note
from xplain.core.parameters import EXISTING_PATH
from xplain.core.protocols import choose_metrics
from xplain.core.registry import METHODS, METRICS, MetricSpec
from xplain.core.rng import Streams, preserve_random_state
from xplain.core.types import Attribution, Cost, Precision, Score, ScoreKind
from xplain.data.annotations import Annotations, locate_boxes, read_annotations
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.folders import walk_files
from xplain.data.mask_regions import ImageFacts
from xplain.data.masks import ANY_OBJECT, Masks, find_masks
from xplain.data.own_outputs import is_in_own_folder, is_own_file
from xplain.metrics.inputs import Explain, MetricInput
from xplain.models import Classifier, ScalarFunction
from xplain.models.first_inspection import inspect_first_images
from xplain.models.load import copy_with_weights
from xplain.models.outputs import OutputKind
from xplain.models.scalar_outputs import is_similarity, resolve_scalar_target
from xplain.oracle import Oracle
from xplain.oracle.access import check_access
from xplain.oracle.scores import available_score
from xplain.oracle.targets import Classes, find_targets
from xplain.pipelines.arguments import (
    accept_any_range,
    check_attributions,
    check_boxes,
    check_classifier,
    check_corners,
    check_images,
    check_masks,
    check_progress,
    resolve_compute,
)
from xplain.pipelines.attribution import (
    MethodRun,
    check_distinct,
    label_of,
    predict_finite,
)

CURVE_POINTS = 21  # maximum number of points stored per item
ZERO_EMBEDDING = "the embedding of a changed image is zero"  # the reason of NaN in a cosine similarity
AttributionFunction = Callable[[Classifier, Tensor, Tensor], Tensor]  # (classifier, images, target) -> attributions


@torch.inference_mode(mode=False)
def measure(
    classifier: Classifier,
    images: Tensor,
    attributions: Tensor,
    metric: str,
    *,
    target: Classes | ScalarFunction | None = None,
    method: str | AttributionFunction | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    progress: Callable[[int], None] | None = None,
    **params: Any,
) -> Score:
    """Compute a metric for each image. Undefined values are NaN.

    Args:
        images: float (B, C, H, W) in [0, 1], not normalized, on any device, a tensor or a NumPy array.
        attributions: (B, C or 1, H, W), raw and signed, from ``attribute`` or another program, a tensor or a NumPy array.
        metric: name of a metric, such as ``deletion``.
        target: target class, as in ``attribute``. Pass ``att.target`` if the explained class is not the predicted class.
        method: attribution method that produced the attributions. Required by metrics that rerun the method or that depend on the
            kind of attribution. ``NAME[:key=value,...]``, or a function (classifier, images, target) -> attributions. The completeness
            metrics rerun a named method with ``seed`` for the sums that its attributions should have.
        seed, precision, batch_size, progress: as in ``attribute``.
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
    check_classifier(classifier)
    classifier, classes = resolve_scalar_target(classifier, target)
    spec = METRICS.get(metric)
    boxes = masks = None
    if _reads_path(spec, "boxes") and isinstance(params.get("boxes"), Tensor | np.ndarray):
        boxes = check_boxes(params.pop("boxes"))
    if _reads_path(spec, "masks") and isinstance(params.get("masks"), Tensor | np.ndarray):
        masks = check_masks(params.pop("masks"))
    metric_run = MetricRun.resolve(spec, params)
    compute = resolve_compute(seed, precision, batch_size)
    check_progress(progress)
    _check_method(method)
    started = time.perf_counter()
    images = check_images(classifier, images)
    attributions = check_attributions(classifier, attributions)
    _check_shapes(images, attributions, boxes, masks)
    inspect_first_images(classifier, images)
    check_metrics([metric_run], classifier)
    if isinstance(method, str) and metric_run.spec.needs & {"explain", "expected"}:
        rerun = METHODS.get(Choice.parse(method).name)
        check_access(classifier, rerun.access, rerun.name)
    with retain_freed_memory(), preserve_random_state():
        logits, cost = predict_finite(classifier, images, compute)
        targets = find_targets(classifier, classes, logits)
        oracle = _metric_oracle(classifier, compute, progress)
        inputs = MetricInput(oracle, images, attributions, targets, boxes=boxes, masks=masks)
        explain = None if method is None else _make_explainer(oracle, method, images, compute)
        if isinstance(method, str):
            method_run = _resolve_method(method, classifier)
            inputs = replace(inputs, score=method_run.score, slopes=method_run.slopes)
            if "expected" in metric_run.spec.needs:
                inputs = replace(inputs, expected=_find_expected_sums(oracle, method, images, targets, compute))
        result = metric_run.measure(inputs, compute, explain)
    return replace(result, cost=replace(oracle.cost + cost, seconds=time.perf_counter() - started))


def _reads_path(spec: MetricSpec, name: str) -> bool:
    """Return whether a metric has a parameter of this name that is the path of a file or folder."""
    return name in spec.parameters and spec.parameters[name].bounds is EXISTING_PATH


def _metric_oracle(
    classifier: Classifier, compute: ComputeOptions, on_rows: Callable[[int], None] | None = None
) -> Oracle:
    return Oracle(
        classifier,
        score=available_score("prob", classifier.output),
        batch_size=compute.batch_size,
        precision=compute.precision,
        on_rows=on_rows,
    )


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
    choice = Choice.parse(method)
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

    def explain(images: Tensor, y: Tensor, classifier: Classifier | None = None, image: Tensor | None = None) -> Tensor:
        with accept_any_range():  # metrics perturb images
            result = method(classifier or default, images, y)
        attributions = check_attributions(default, result, finite=False)
        _check_shapes(images, attributions)
        return attributions

    return explain


@dataclass(frozen=True, eq=False)
class MetricRun:
    """A metric with validated parameters.

    label: display name in tables. unit: of the values. boxes, masks: of the images, if a parameter names their file.
    """

    spec: MetricSpec
    settings: dict[str, Any]
    label: str
    unit: str = ""
    boxes: Annotations | None = None
    masks: Masks | None = None

    @classmethod
    def resolve(cls, spec: MetricSpec, params: Mapping[str, Any], label: str = "") -> MetricRun:
        """Validate the parameters. Raise UsageError if one is invalid."""
        return cls(spec, spec.resolve(params), label or spec.name, spec.unit)

    def for_output(self, output: OutputKind) -> MetricRun:
        """Return the metric with the unit that it has for a kind of output."""
        if output.has_probabilities:
            return self
        return replace(self, unit=self.spec.unit.replace("target probability", "value").replace("probability", "value"))

    def with_annotations(self, index: FileIndex, class_names: ClassNames) -> MetricRun:
        """Return the metric with the boxes or masks of the images in ``index``, or itself if it reads none.

        Raises InputError if their file cannot be read or contradicts itself, and UsageError if parameters contradict each other.
        """
        boxes, masks = self._path("boxes"), self._path("masks")
        if boxes is not None and masks is not None:
            raise UsageError(f"{self.label} accepts either boxes or masks", "remove one of them")
        if masks is None:
            self._refuse_mask_options()
        if boxes is not None:
            return replace(self, boxes=read_annotations(boxes).assign(index, class_names))
        if masks is not None:
            categories, difficult = self.settings["categories"], self.settings["difficult"]
            return replace(self, masks=find_masks(masks, index, class_names, categories, difficult))
        return self

    def _refuse_mask_options(self) -> None:
        """Raise UsageError if a parameter has a value that requires masks."""
        for name in ("categories", "difficult"):
            if name in self.settings and self.settings[name] != self.spec.parameters[name].default:
                raise UsageError(f"{self.label}: {name} requires masks", f"set masks=PATH or remove {name}")

    def _path(self, name: str) -> str | None:
        """Return the path that a parameter names; None if it names none or is no path."""
        return self.settings[name] if _reads_path(self.spec, name) else None

    @cached_property
    def files(self) -> dict[str, str]:
        """SHA-256 digests of the files used as parameters, by parameter name."""
        paths = {
            name: self.settings[name]
            for name, parameter in self.spec.parameters.items()
            if parameter.bounds is EXISTING_PATH
        }
        return {name: _hash_path(Path(path)) for name, path in paths.items() if path is not None}

    def describe(self) -> dict[str, Any]:
        """Return the settings that affect the values of the metric, and its unit and direction."""
        description = {
            "metric": self.spec.name,
            "params": self.spec.describe_settings(self.settings),
            "version": self.spec.version,
            "better": self.spec.better,
            "unit": self.unit,
        }
        if self.masks is not None and not self.masks.has_categories:
            description["annotation"] = ANY_OBJECT
        return description | ({"files": self.files} if self.files else {})

    def measure(self, inputs: MetricInput, compute: ComputeOptions, explain: Explain | None = None) -> Score:
        """Run the metric on a batch. Random numbers depend on the image and the metric and are therefore the same for all methods.

        explain: function that reruns the method, required by metrics that recompute attributions. Raises UsageError if it is required but
        missing.
        """
        if self.spec.scope != "image":
            name = self.spec.name
            raise UsageError(f"{name} requires a dataset", f'use "xplain evaluate DATASET --metric {name}"')
        supplies = self._supplies(inputs, compute.seed, explain)
        if self._path("boxes") is not None:
            inputs = replace(inputs, boxes=self._locate_boxes(inputs))
        if self._path("masks") is not None:
            inputs = replace(inputs, masks=self._locate_masks(inputs))
        result: Score = self.spec.function(inputs, **self.settings, **supplies)
        return _explain_nan(result) if is_similarity(inputs.oracle.classifier) else result

    def _supplies(self, inputs: MetricInput, seed: int, explain: Explain | None) -> dict[str, Any]:
        """Return the extra keyword arguments that the metric requires. Raise UsageError if the method is required but missing."""
        supplies: dict[str, Any] = {}
        if "rng" in self.spec.needs:
            supplies["rng"] = Streams.of(inputs.images, seed, self.spec.draws or self.spec.name)
        if "seed" in self.spec.needs:
            supplies["seed"] = seed
        if "expected" in self.spec.needs:
            supplies["expected"] = inputs.expected
        if "load" in self.spec.needs:
            supplies["load"] = partial(copy_with_weights, inputs.oracle.classifier)
        if "explain" in self.spec.needs:
            if explain is None:
                raise UnknownMethodError(
                    f"{self.spec.name} requires the attribution method", "pass it, for example method='saliency'"
                )
            supplies["explain"] = explain
        return supplies

    def _locate_boxes(self, inputs: MetricInput) -> Tensor:
        """Return the bounding boxes of the images in a batch."""
        if self.boxes is None or not (inputs.keys and inputs.sizes):
            raise UsageError(
                f"{self.spec.name} cannot look up boxes in a file, because the images have no names",
                "pass a tensor of shape (images, boxes, 4) in image pixels",
            )
        classifier = inputs.oracle.classifier
        return locate_boxes(
            self.boxes,
            inputs.keys,
            inputs.sizes,
            inputs.y.tolist(),
            classifier.preprocessing,
            classifier.class_names.find,
        )

    def _locate_masks(self, inputs: MetricInput) -> Tensor:
        """Return the masks of the images in a batch."""
        if self.masks is None or not (inputs.keys and inputs.sizes):
            raise UsageError(
                f"{self.spec.name} cannot look up masks in a file, because the images have no names",
                "pass a tensor of shape (images, masks, height, width) of 0 and 1",
            )
        key = ("masks", *(self.settings[name] for name in ("masks", "categories", "difficult")))
        if key not in inputs.cache:
            facts = zip(inputs.keys, inputs.sizes, inputs.orientations, strict=True)
            images = [ImageFacts(*values) for values in facts]
            preprocessing = inputs.oracle.classifier.preprocessing
            inputs.cache[key] = self.masks.locate(images, inputs.y.tolist(), preprocessing)
        return inputs.cache[key]


def _explain_nan(score: Score) -> Score:
    """Return a score of a similarity in which every NaN has a reason."""
    is_unexplained = score.values.isnan()
    for mask in score.undefined.values():
        is_unexplained = is_unexplained & ~mask
    if not bool(is_unexplained.any()):
        return score
    return replace(score, undefined=score.undefined | {ZERO_EMBEDDING: is_unexplained})


def _hash_path(path: Path) -> str:
    """Return the SHA-256 digest of a file, or of the sorted file names and contents of a directory without output of xplain."""
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
        return digest.hexdigest()
    for file in sorted(walk_files(path)):
        if file.is_file() and (file.suffix == ".xml" or not _is_output(file, path)):
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _is_output(file: Path, root: Path) -> bool:
    """Return whether xplain wrote a file below ``root``, or the folder that holds it."""
    return is_in_own_folder(file, root) or is_own_file(file)


@dataclass(frozen=True, eq=False)
class MetricResult:
    """Result of a metric on a batch. undefined: dict that maps each reason to a mask (B,)."""

    metric_run: MetricRun
    score: Score
    undefined: dict[str, Tensor]

    @classmethod
    def of_unusable_map(cls, metric_run: MetricRun, reason: str) -> MetricResult:
        """Return the result of one image whose map cannot be used."""
        score = undefined_score(1, reason)
        return cls(metric_run, score, score.undefined)

    def read(self, i: int, points: int | None = CURVE_POINTS) -> dict[str, Any]:
        """Return the value of one image, the reason if it is undefined, and the curve.

        points: maximum number of curve points, or None for all.
        """
        reasons = [reason for reason, mask in self.undefined.items() if bool(mask[i])]
        value = float(self.score.values[i])
        if reasons or value != value:
            return {"value": None, "undefined": reasons[0] if reasons else "not a number", "curve": None}
        chance = {} if self.score.chance is None else {"chance": float(self.score.chance[i])}
        if self.score.curve is None or self.score.curve.shape[1] < 2:  # a single point is just the value
            return {"value": value, "undefined": None, "curve": None} | chance
        curve = self.score.curve[i]
        if points is not None and points < len(curve):  # never repeat points
            index = torch.linspace(0, len(curve) - 1, points, device=curve.device).round().long()
            curve = curve[index]
        return {"value": value, "undefined": None, "curve": [round(number, 6) for number in curve.tolist()]} | chance


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


class MapSource(Protocol):
    """Where attributions come from: a method, or the files of another program."""

    @property
    def label(self) -> str:
        """The name in tables."""

    @property
    def score(self) -> ScoreKind | None:
        """The score that the attributions explain; None if unknown."""

    @property
    def slopes(self) -> bool | None:
        """Whether the attributions are slopes (see ``MethodSpec``); None if unknown."""

    def describe(self) -> dict[str, Any]:
        """Return what determines the attributions."""

    def explainer(self, classifier: Classifier, content: Tensor, compute: ComputeOptions) -> Explain | None:
        """Return the method as metrics run it again, or None if it is unknown."""


def run_metrics(
    source: MapSource,
    metric_runs: Sequence[MetricRun],
    classifier: Classifier,
    images: Tensor,
    attribution: Attribution,
    compute: ComputeOptions,
    keys: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...] = (),
    on_rows: Callable[[int], None] | None = None,
    orientations: tuple[int, ...] = (),
) -> Iterator[MetricResult]:
    """Yield the result of each metric on one batch of attributions.

    images: (B, C, H, W). keys: names of the images. sizes: (height, width) of the image files. orientations: of EXIF.
    A metric that requires the method is undefined for maps of an unknown one.
    on_rows: called with the number of rows after each model call.
    """
    assert attribution.target is not None
    finite = attribution.values.isfinite().flatten(1).all(dim=1)
    inputs = MetricInput(
        _metric_oracle(classifier, compute, on_rows),
        images,
        attribution.values.to(images.dtype).nan_to_num(),
        attribution.target,
        attribution.expected,
        keys,
        sizes,
        score=source.score,
        slopes=source.slopes,
        orientations=orientations,
    )
    explain = source.explainer(classifier, images, compute)
    for metric_run in metric_runs:
        try:
            score = metric_run.measure(inputs, compute, explain)
        except UnknownMethodError as error:
            way_out = f"; set {error.parameter}" if error.parameter else ""
            emit_note(f"{metric_run.label} is undefined for {source.label}: {error.message}{way_out}")
            score = undefined_score(len(images), error.message, images.device)
        undefined = score.undefined | {"the attribution is not finite": ~finite}
        yield MetricResult(metric_run, score, undefined)


def undefined_score(count: int, reason: str, device: torch.device | None = None) -> Score:
    """Return a score that is undefined for all of ``count`` images."""
    values = torch.full((count,), torch.nan, dtype=torch.float64, device=device)
    return Score(values, undefined={reason: values.isnan()})
