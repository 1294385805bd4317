"""Random questions about a model: a method with settings, a score, targets, contrast classes, and a metric with settings."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.helpers.random_networks import Case
from xplain.core.parameters import Parameter
from xplain.core.registry import METHODS, METRICS, MethodSpec
from xplain.pipelines.compatibility import minimal_settings

# Metrics that need boxes, files or training.
OTHER_METRICS = frozenset({"pointing-game", "roar", "label-randomisation", "parameter-randomisation"})
SLOW_METHODS = frozenset({"xrai"})  # drawn less often
BASELINES = ("black", "mean", "blur")
# Values of the parameters of metrics, the first of which is the fastest.
METRIC_PARAMETERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "deletion": {"steps": (4, 7), "baseline": BASELINES, "unit": ("pixel", "scalar"), "relative": (False, True)},
    "insertion": {"steps": (4, 7), "baseline": BASELINES, "relative": (False, True)},
    "difference": {"steps": (4,), "baseline": BASELINES, "relative": (False, True)},
    "morf": {"steps": (4, 6), "baseline": BASELINES, "relative": (False, True)},
    "lerf": {"steps": (4, 6), "baseline": BASELINES, "relative": (False, True)},
    "completeness-gap": {"relative": (False, True)},
    "sensitivity-n": {"masks": (4,), "grid": (4,), "score": ("logit", "prob", "log-prob"), "baseline": BASELINES},
    "aic": {"order": ("signed", "absolute"), "monotone": (False, True)},
    "sic": {"order": ("signed", "absolute"), "monotone": (False, True)},
    "road": {"percentiles": ("20+60",), "score": ("prob", "logit", "log-prob")},
    "road-morf": {"percentiles": ("20+60",), "score": ("prob", "logit", "log-prob")},
    "road-lerf": {"percentiles": ("20+60",), "score": ("prob", "logit", "log-prob")},
    "infidelity": {"perturbations": (4,), "kind": ("square", "gaussian"), "normalize": (False, True)},
    "max-sensitivity": {"samples": (2,), "radius": (0.02, 0.1)},
}
COUNTS = frozenset({"steps", "masks", "grid", "perturbations", "samples", "percentiles"})  # always set
SCORES = ("logit", "prob", "log-prob", "margin")


class FirstValue:
    """A target function: a value that a user computes from the output of the network."""

    def __call__(self, output: Tensor) -> Tensor:
        return output[:, 0].tanh() if output.ndim == 2 else output.tanh()


@dataclass(frozen=True)
class Question:
    """What is asked about the model of a case.

    target: of ``attribute``; ``function`` and ``similar`` stand for a function of the output. against, score: of ``attribute``.
    """

    method: MethodSpec
    settings: dict[str, Any]
    metric: str
    metric_settings: dict[str, Any]
    score: str | None
    target: Any
    against: Any

    @property
    def description(self) -> str:
        """The parts that are not defaults."""
        words = [self.method.name, *(f"{name}={value}" for name, value in self.settings.items())]
        words += [
            f"{name} {value}" for name in ("score", "target", "against") if (value := getattr(self, name)) is not None
        ]
        metric = " ".join([self.metric, *(f"{name}={value}" for name, value in self.metric_settings.items())])
        return f"{' '.join(words)}; {metric}"

    @property
    def is_about_output(self) -> bool:
        """Whether the target is a function of the output of the network, not a class."""
        return self.target in ("function", "similar")

    def classes_of(self, rows: slice) -> dict[str, Any]:
        """Return the arguments ``target`` and ``against`` for some of the images."""
        values = {"target": self.target, "against": self.against}
        return {name: value[rows] if isinstance(value, list) else value for name, value in values.items()}


def draw_question(case: Case, draw: random.Random) -> Question:
    """Return a question about a case."""
    method = draw.choice(list(METHODS))
    if method.name in SLOW_METHODS and draw.random() < 0.9:
        method = draw.choice(list(METHODS))
    metric = draw.choice([metric.name for metric in METRICS if metric.name not in OTHER_METRICS])
    settings = minimal_settings(method, tuple(case.images.shape[2:]), case.images.shape[1])
    if "stride" in method.parameters:
        settings |= {"window": draw.choice([3, 4]), "stride": draw.choice([3, 4])}
    if "segments" in method.parameters:
        settings |= {"segments": draw.choice([4, 9]), "samples": 20}
    if draw.random() < 0.5:
        settings |= _draw_settings(method, draw)
    metric_settings = {
        name: draw.choice(values)
        for name, values in METRIC_PARAMETERS.get(metric, {}).items()
        if name in COUNTS or draw.random() < 0.5
    }
    score = draw.choice(SCORES) if draw.random() < 0.3 else None
    return Question(method, settings, metric, metric_settings, score, *_draw_classes(case, draw))


def _draw_settings(method: MethodSpec, draw: random.Random) -> dict[str, Any]:
    """Return another value of one parameter of the method, if there is one with known values."""
    choices = {name: values for name, parameter in method.parameters.items() if (values := _list_values(parameter))}
    if not choices:
        return {}
    name = draw.choice(list(choices))
    return {name: draw.choice(choices[name])}


def _list_values(parameter: Parameter) -> tuple[Any, ...]:
    """Return values of a parameter that keep a case fast."""
    if parameter.choices:
        return parameter.choices
    if parameter.kind is bool:
        return (False, True)
    return {"steps": (3, 5), "baseline": BASELINES}.get(parameter.name, ())


def _draw_classes(case: Case, draw: random.Random) -> tuple[Any, Any]:
    """Return the target and the contrast classes."""
    count = 2 if case.activation == "binary" else case.output.columns
    chance = draw.random()
    if chance < 0.08 and case.output.is_tensor:
        return "function", None
    if chance < 0.12:
        return "similar", None
    target: Any = None
    if chance < 0.3:
        target = draw.randrange(count)
    elif chance < 0.45:
        target = [draw.randrange(count) for _ in case.images]
    against: Any = None
    if draw.random() < 0.3:
        against = draw.choice(["runner-up", "runner-up", draw.randrange(count)])
    return target, against
