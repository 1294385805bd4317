"""What is to be run: methods and metrics with their settings, and running all metrics on one attribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xplain.core.config import Choice
from xplain.core.errors import UsageError
from xplain.core.protocols import choose_metrics
from xplain.core.registry import METHODS, METRICS, MethodSpec, MetricSpec
from xplain.core.types import Attribution, Score, ScoreKind
from xplain.metrics.inputs import MetricInput
from xplain.metrics.named_files import digests
from xplain.models import Classifier
from xplain.oracle import Oracle
from xplain.oracle.runtime import Runtime
from xplain.pipelines.attribution import explain_again, images_at_once, resolve_method, run_method, run_metric
from xplain.pipelines.records import Work

CONTROL = "random"  # in every run of evaluate: a method that does not beat it explains nothing
DIGEST = 21  # points of a curve, at most, that are kept for each item of a data set


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric that is to be run, its settings checked."""

    spec: MetricSpec
    settings: dict[str, Any]
    label: str

    @cached_property
    def files(self) -> dict[str, str]:
        """The SHA-256 of the files that parameters name."""
        return digests(self.spec, self.settings)

    def describe(self) -> dict[str, Any]:
        """What determines its numbers, and how to read them."""
        described = {
            "metric": self.spec.name,
            "params": self.settings,
            "version": self.spec.version,
            "better": self.spec.better,
            "unit": self.spec.unit,
        }
        return described | ({"files": self.files} if self.files else {})


def label_of(choice: Choice, name: str) -> str:
    """A method or metric as asked for, under its full name: ``agi:steps=10``."""
    params = ",".join(f"{key}={value}" for key, value in choice.params)
    return f"{name}:{params}" if params else name


def plan_metrics(protocol: str | None, metrics: tuple[Choice, ...]) -> list[Measure]:
    """The metrics of a protocol, or those given, with their settings."""
    found = []
    for choice in choose_metrics(protocol, metrics):
        spec = METRICS.get(choice.name)
        shown = choice if spec.scope == "image" else without_trials(choice)
        found.append(Measure(spec, spec.resolve(dict(choice.params)), label_of(shown, spec.name)))
    check_distinct((each.label for each in found), "metric")
    return found


def without_trials(choice: Choice) -> Choice:
    """A metric's choice without the number of trials, which may be raised later, as a number of images may."""
    return Choice(choice.name, tuple(each for each in choice.params if each[0] != "trials"))


def plan_works(
    methods: Sequence[Choice], score: ScoreKind | None, classifier: Classifier, layer: str | None = None
) -> list[Work]:
    """The methods with their settings. score: None for each one's own; layer: for those that look at one."""
    works = []
    for choice in methods:
        spec = METHODS.get(choice.name)
        params = with_layer(spec, dict(choice.params), layer)
        settings, references = resolve_method(spec, params, classifier.preprocessing)
        works.append(Work(spec, settings, references, score or spec.score, label_of(choice, spec.name)))
    return works


def with_control(methods: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The methods, and the random control behind them."""
    return methods if any(choice.name == CONTROL for choice in methods) else (*methods, Choice(CONTROL))


def check_distinct(labels: Iterable[str], kind: str = "method") -> None:
    """Raise UsageError for a method (or what ``kind`` says) that is asked for twice with the same parameters."""
    for label, count in Counter(labels).items():
        if count > 1:
            raise UsageError(f"{kind} {label!r} is asked for twice", "give each set of parameters once")


def check_methods(methods: Sequence[Choice], layer: str | None = None) -> None:
    """Raise UsageError for what is wrong with methods before a model is loaded, and for a layer that none of them looks at."""
    specs = [METHODS.get(choice.name) for choice in methods]
    for spec, choice in zip(specs, methods, strict=True):
        spec.resolve(with_layer(spec, dict(choice.params), layer))
    check_distinct(label_of(choice, spec.name) for spec, choice in zip(specs, methods, strict=True))
    if layer and not any("layer" in spec.parameters for spec in specs):
        raise UsageError(f"--layer {layer} means nothing to {', '.join(s.name for s in specs)}", "leave it out")


def with_layer(spec: MethodSpec, params: dict[str, Any], layer: str | None) -> dict[str, Any]:
    """The parameters of a method, with the layer that holds for all where it has one and names none itself."""
    return {"layer": layer, **params} if layer and "layer" in spec.parameters else params


def images_a_call(classifier: Classifier, work: Work, runtime: Runtime) -> int:
    """How many images of the model's size fill a model call of a method."""
    blank = torch.empty(1, 3, *classifier.size, device=classifier.device)
    return images_at_once(classifier, work.spec, work.settings, blank, runtime.batch_size)


def run_work(
    classifier: Classifier, work: Work, x: Tensor, y: Tensor, contrasts: Tensor | None, runtime: Runtime
) -> Attribution:
    """A method on images (B, C, H, W) for the classes (B,), against rivals (B, A) or none. Raises as ``run_method``."""
    return run_method(
        classifier, work.spec, work.settings, x, y, contrasts, work.score, runtime, work.references
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric's score on a batch, and the reasons why it has no value for some: each a (B,) bool mask."""

    measure: Measure
    score: Score
    undefined: dict[str, Tensor]

    def read(self, i: int, points: int | None = DIGEST) -> dict[str, Any]:
        """The value of one image, or why there is none; and its curve at ``points`` points at most (None: at all it has)."""
        why = [reason for reason, mask in self.undefined.items() if bool(mask[i])]
        value = float(self.score.values[i])
        if why or value != value:
            return {"value": None, "undefined": why[0] if why else "not a number", "curve": None}
        if self.score.curve is None or self.score.curve.shape[1] < 2:  # one point is the value again
            return {"value": value, "undefined": None, "curve": None}
        curve = self.score.curve[i]
        if points is not None and points < len(curve):  # else points would be there twice
            curve = curve[torch.linspace(0, len(curve) - 1, points, device=curve.device).round().long()]
        return {"value": value, "undefined": None, "curve": [round(v, 6) for v in curve.tolist()]}


def take_measures(
    classifier: Classifier,
    work: Work,
    measures: Sequence[Measure],
    x: Tensor,
    result: Attribution,
    runtime: Runtime,
    keys: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...] = (),
) -> Iterator[Measured]:
    """Each metric on one batch of attributions, as it is done.

    x: (B, C, H, W). keys, sizes: the images' names, and their files' heights and widths.
    """
    assert result.target is not None
    finite = result.values.isfinite().flatten(1).all(dim=1)
    oracle = Oracle(classifier, score="prob", batch_size=runtime.batch_size, precision=runtime.precision)
    values = result.values.to(x.dtype).nan_to_num()
    case = MetricInput(oracle, x, values, result.target, result.expected, keys, sizes)
    case = replace(case, score=work.score, slopes=work.spec.slopes)
    explain = explain_again(classifier, work.spec, work.settings, work.score, x, runtime, work.references)
    for each in measures:
        score = run_metric(each.spec, each.settings, case, runtime, explain)
        yield Measured(each, score, score.undefined | {"the attribution is not finite": ~finite})
