"""A metric with validated parameters, and its run on a batch of attributions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from xplain.core.errors import UnknownMethodError, UsageError, emit_note
from xplain.core.options import ComputeOptions
from xplain.core.parameters import EXISTING_PATH
from xplain.core.registry import MetricSpec
from xplain.core.rng import Streams
from xplain.core.types import Attribution, Score, ScoreKind
from xplain.data.annotations import Annotations
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.folders import walk_files
from xplain.data.masks import ANY_OBJECT, Masks
from xplain.data.own_outputs import is_in_own_folder, is_own_file
from xplain.metrics.inputs import Explain, MetricInput
from xplain.models import Classifier
from xplain.models.load import copy_with_weights
from xplain.models.outputs import OutputKind
from xplain.models.scalar_outputs import is_similarity
from xplain.oracle import Oracle
from xplain.oracle.scores import available_score
from xplain.pipelines.contrasts import CONTRASTS
from xplain.pipelines.metric_annotations import find_annotations, locate_annotations

CURVE_POINTS = 21  # maximum number of points stored per item
ZERO_EMBEDDING = "the embedding of a changed image is zero"  # the reason of NaN in a cosine similarity


def make_metric_oracle(
    classifier: Classifier, compute: ComputeOptions, on_rows: Callable[[int], None] | None = None
) -> Oracle:
    """Return the oracle of metrics, which explains probabilities, or values if the model has no probabilities."""
    return Oracle(
        classifier,
        score=available_score("prob", classifier.output),
        batch_size=compute.batch_size,
        precision=compute.precision,
        on_rows=on_rows,
    )


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
        """Return the metric with the boxes or masks of the images in ``index``, if it reads any.

        Raises InputError if their file cannot be read or contradicts itself, and UsageError if parameters contradict each other.
        """
        boxes, masks = find_annotations(self.spec, self.settings, self.label, index, class_names)
        return replace(self, boxes=boxes, masks=masks)

    @cached_property
    def files(self) -> dict[str, str]:
        """SHA-256 digests of the files used as parameters, by parameter name."""
        paths = {
            name: self.settings[name]
            for name, parameter in self.spec.parameters.items()
            if parameter.bounds is EXISTING_PATH
        }
        return {name: hash_path(Path(path)) for name, path in paths.items() if path is not None}

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
        inputs = locate_annotations(self.spec, self.settings, inputs, self.boxes, self.masks)
        result: Score = self.spec.function(inputs, **self.settings, **supplies)
        return _explain_nan(result) if is_similarity(inputs.oracle.classifier) else result

    def _supplies(self, inputs: MetricInput, seed: int, explain: Explain | None) -> dict[str, Any]:
        """Return the extra keyword arguments that the metric requires. Raise UsageError if the method is required but missing."""
        supplies: dict[str, Any] = {}
        if "rng" in self.spec.needs:
            content = inputs.images if inputs.content is None else inputs.content
            supplies["rng"] = Streams.of(content, seed, self.spec.draws or self.spec.name, inputs.images.device)
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


def _explain_nan(score: Score) -> Score:
    """Return a score of a similarity in which every NaN has a reason."""
    is_unexplained = score.values.isnan()
    for mask in score.undefined.values():
        is_unexplained = is_unexplained & ~mask
    if not bool(is_unexplained.any()):
        return score
    return replace(score, undefined=score.undefined | {ZERO_EMBEDDING: is_unexplained})


def hash_path(path: Path) -> str:
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
        if bool(curve.isnan().any()):  # some repeats do not count
            return {"value": value, "undefined": None, "curve": None} | chance
        return {"value": value, "undefined": None, "curve": [round(number, 6) for number in curve.tolist()]} | chance


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
    content: Tensor | None = None,
    orientations: tuple[int, ...] = (),
) -> Iterator[MetricResult]:
    """Yield the result of each metric on one batch of attributions, on the CPU.

    images: (B, C, H, W). keys: names of the images. sizes: (height, width) of the image files. orientations: of EXIF.
    A metric that requires the method is undefined for maps of an unknown one.
    on_rows: called with the number of rows after each model call. content: the images on the CPU, if they are there.
    """
    assert attribution.target is not None
    finite = attribution.values.isfinite().flatten(1).all(dim=1)
    inputs = MetricInput(
        make_metric_oracle(classifier, compute, on_rows),
        images,
        attribution.values.to(images.dtype).nan_to_num(),
        attribution.target,
        attribution.expected,
        keys,
        sizes,
        score=source.score,
        slopes=source.slopes,
        content=content,
        contrasts=attribution.details.get(CONTRASTS),
        orientations=orientations,
    )
    explain = source.explainer(classifier, images if content is None else content, compute)
    for metric_run in metric_runs:
        try:
            score = metric_run.measure(inputs, compute, explain)
        except UnknownMethodError as error:
            way_out = f"; set {error.parameter}" if error.parameter else ""
            emit_note(f"{metric_run.label} is undefined for {source.label}: {error.message}{way_out}")
            score = undefined_score(len(images), error.message, images.device)
        score = score.cpu()
        undefined = score.undefined | {"the attribution is not finite": ~finite.cpu()}
        yield MetricResult(metric_run, score, undefined)


def undefined_score(count: int, reason: str, device: torch.device | None = None) -> Score:
    """Return a score that is undefined for all of ``count`` images."""
    values = torch.full((count,), torch.nan, dtype=torch.float64, device=device)
    return Score(values, undefined={reason: values.isnan()})
