"""Benchmark cases of ``xplain bench`` and the inputs of reference implementations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xplain.core.config import BenchConfig, Choice
from xplain.core.options import ComputeOptions
from xplain.core.registry import METHODS, METRICS, MethodSpec, Spec
from xplain.core.types import Attribution, EngineName, Precision, Score
from xplain.metrics._similarity import spearman
from xplain.models import Classifier
from xplain.pipelines.attribution import attribute, check_methods, label_of, with_layer_options
from xplain.pipelines.measurement import measure
from xplain.pipelines.method_scores import split_score
from xplain.pipelines.timing import RunStats


def list_specs(config: BenchConfig) -> Iterator[tuple[Choice, Spec]]:
    """Yield the requested methods, with their layer and layout, then the metrics. Raises UsageError for an unknown name."""
    check_methods(config.methods, config.layer, config.layout)
    for choice in config.methods:
        spec = METHODS.get(choice.name)
        yield replace(choice, params=tuple(with_layer_options(spec, choice, config.layer, config.layout).items())), spec
    for choice in config.metrics:
        yield choice, METRICS.get(choice.name)


def check_parameters(spec: Spec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all parameters of a method or metric. ``score`` can be set for methods. Raises UsageError if one is invalid."""
    return spec.resolve(split_score(spec, params)[1] if isinstance(spec, MethodSpec) else params)


@dataclass(frozen=True, eq=False)
class Task:
    """The input of a reference implementation.

    images: (B, C, H, W), values in [0, 1].
    targets: (B,), classes to explain.
    settings: values of all parameters of the method or metric.
    maps: (B, 1, H, W), attributions to evaluate, used by metrics only.
    """

    classifier: Classifier
    images: Tensor
    targets: Tensor
    settings: Mapping[str, Any]
    maps: Tensor


@dataclass(frozen=True, eq=False)
class BenchmarkCase:
    """A method or metric to benchmark. maps: (B, 1, H, W), attributions to evaluate, used by metrics only."""

    spec: Spec
    choice: Choice
    compute: ComputeOptions
    classifier: Classifier
    maps: Tensor

    @property
    def kind(self) -> str:
        """``method`` or ``metric``."""
        return "method" if isinstance(self.spec, MethodSpec) else "metric"

    @property
    def settings(self) -> dict[str, Any]:
        """Values of all parameters."""
        return check_parameters(self.spec, dict(self.choice.params))

    @property
    def label(self) -> str:
        """The name with the requested parameters, such as ``agi:steps=10``."""
        return label_of(self.choice, self.spec.name)

    @property
    def has_auto_count(self) -> bool:
        """Whether the number of steps or samples is auto, which reference implementations do not have."""
        return any(self.settings[name] in parameter.words for name, parameter in self.spec.parameters.items())

    def run(self, images: Tensor, targets: Tensor, engine: EngineName = "torch") -> RunStats:
        """Run the case once on images (B, C, H, W) and target classes (B,). engine: what computes the model."""
        rows_of_calls: list[int] = []
        result = self._compute(images, targets, self.compute.precision, rows_of_calls.append, engine)
        return RunStats(result.cost, max(rows_of_calls, default=0))

    def task(self, images: Tensor, targets: Tensor) -> Task:
        """Return the input for the reference implementation of this case."""
        return Task(self.classifier, images, targets, self.settings, self.maps[: len(images)])

    def compare_with_fp32(
        self, images: Tensor, targets: Tensor, engine: EngineName = "torch"
    ) -> dict[str, float] | None:
        """Return the agreement with float32 results of PyTorch for the worst image, or None if the precision is float32.

        For attributions, the measures are the cosine similarity and Spearman's rank correlation. For metrics, the measure is the
        largest absolute difference. engine: what computes the model in the other precision.
        """
        if self.compute.precision == "fp32":
            return None
        exact = self._compute(images, targets, "fp32")
        result = self._compute(images, targets, self.compute.precision, engine=engine)
        if isinstance(self.spec, MethodSpec):
            cosine = torch.cosine_similarity(exact.values.double().flatten(1), result.values.double().flatten(1), dim=1)
            return {"cosine": float(cosine.min()), "spearman": float(spearman(exact.values, result.values).min())}
        return {"largest_difference": float((exact.values - result.values).abs().max())}

    def _compute(
        self,
        images: Tensor,
        targets: Tensor,
        precision: Precision,
        on_rows: Callable[[int], None] | None = None,
        engine: EngineName = "torch",
    ) -> Attribution | Score:
        """Call ``attribute`` or ``measure``. on_rows: called with the number of rows after each model call."""
        options: dict[str, Any] = {
            "target": targets,
            "seed": self.compute.seed,
            "precision": precision,
            "engine": engine,
            "batch_size": self.compute.batch_size or "auto",
            "progress": on_rows,
            **dict(self.choice.params),
        }
        if isinstance(self.spec, MethodSpec):
            return attribute(self.classifier, images, self.choice.name, **options)
        maps = self.maps[: len(images)]
        method = "saliency" if self.classifier.differentiable else "random"  # of metrics that run one again
        return measure(self.classifier, images, maps, self.choice.name, method=method, **options)
