"""The table of methods and of metrics: everything said about one is read from its registration.

A registration is one decorated function. Its keyword-only parameters with their annotations, defaults and
bounds give the command line, the validation, the documentation and the record fields.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, get_type_hints

from xplain.core.errors import UsageError, did_you_mean
from xplain.core.papers import Paper
from xplain.core.parameters import Parameter
from xplain.core.types import ScoreKind


@dataclass(frozen=True, eq=False)
class Spec:
    """A registered function and what is claimed about it. version: of the definition; it rises when numbers change."""

    name: str
    function: Callable[..., Any]
    alias: str = ""
    paper: Paper | None = None
    doc: str = ""
    deviations: str = ""
    version: int = 1

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Keyword-only parameters that a user may set, by name."""
        hints = get_type_hints(self.function, include_extras=True)
        return {
            name: Parameter.read(name, each.default, hints[name])
            for name, each in inspect.signature(self.function).parameters.items()
            if each.kind is each.KEYWORD_ONLY and each.default is not each.empty
        }

    @cached_property
    def needs(self) -> frozenset[str]:
        """Keyword-only names without a default: what the engine hands over (``rng``, ``against``, ...)."""
        return frozenset(
            name
            for name, each in inspect.signature(self.function).parameters.items()
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty
        )

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters with their values: the given ones checked, the others at their defaults."""
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                near = did_you_mean(name, self.parameters, f"its parameters are: {known}")
                raise UsageError(f"{self.name} has no parameter {name!r}", near)
        return {
            name: each.parse(given[name], self.name) if name in given else each.default
            for name, each in self.parameters.items()
        }

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return re.split(r"(?<=\.)\s", " ".join(self.doc.split()), maxsplit=1)[0]


@dataclass(frozen=True, eq=False)
class MethodSpec(Spec):
    """An attribution method.

    cost(**params) -> (forwards, backwards) rows an image; ``at_most`` when paths may end early.
    slopes: values are slopes, score per pixel change; else contributions, which hold a factor such as x - x'.
    rounding: how far two correct float32 runs may differ, where signs or ranks amplify rounding.
    parallel(**params) -> rows of one image that can go through the model at once; where it is small, images are batched.
    plain: run the network's own arithmetic, without folded batch norms, so that what amplifies rounding still agrees with
    other programs as far as it can.
    """

    score: ScoreKind = "logit"
    axioms: frozenset[str] = frozenset()
    cost: Callable[..., tuple[int, int]] = field(default=lambda **_: (1, 1))
    at_most: bool = False
    slopes: bool = False
    parallel: Callable[..., int] = field(default=lambda **_: 1)
    rounding: str = ""
    plain: bool = False


@dataclass(frozen=True, eq=False)
class MetricSpec(Spec):
    """A faithfulness metric: one value an image, or, where ``scope`` is ``dataset``, one value a trial on the whole data set.

    better: higher or lower. bounds: the possible range at the defaults. axis: what a curve runs over. draws: a name for
    random draws that several metrics share; empty: its own.
    forwards(side=, **params) -> rows through the model for an image of ``side`` pixels.
    attributions(**params) -> how often the method runs again. undefined: when there is no value.
    Functions may ask for ``rng`` (streams of the image and the metric, the same for every method), for ``seed`` (of what all
    images share), for ``explain`` (the method, to be run again) and for ``load`` (the classifier with the weights of a file):
    keyword-only names without a default.
    """

    better: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    axis: str = "share of pixels"
    draws: str = ""
    forwards: Callable[..., int] = field(default=lambda **_: 0)
    attributions: Callable[..., int] = field(default=lambda **_: 0)
    undefined: str = "never"
    scope: Literal["image", "dataset"] = "image"


S = TypeVar("S", bound=Spec)


class Registry(Generic[S]):
    """Specs by name and alias, in order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._specs: dict[str, S] = {}
        self._aliases: dict[str, str] = {}

    def add(self, spec: S) -> None:
        """Register ``spec``. A name or alias that is taken is a bug."""
        for name in filter(None, (spec.name, spec.alias)):
            if name in self._specs or name in self._aliases:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._specs[spec.name] = spec
        if spec.alias:
            self._aliases[spec.alias] = spec.name

    def get(self, name: str) -> S:
        """The spec of a name or alias. Raises UsageError with near matches."""
        key = self._aliases.get(name, name)
        if key not in self._specs:
            near = did_you_mean(name, [*self._specs, *self._aliases], f"see xplain list {self.kind}s")
            raise UsageError(f"unknown {self.kind} {name!r}", near)
        return self._specs[key]

    def __iter__(self) -> Iterator[S]:
        return iter(self._specs.values())


METHODS: Registry[MethodSpec] = Registry("method")
METRICS: Registry[MetricSpec] = Registry("metric")

F = TypeVar("F", bound=Callable[..., Any])


def method(name: str, **claims: Any) -> Callable[[F], F]:
    """Register an attribution method: ``function(oracle, x, y, *, needs..., parameters=...) -> Attribution``."""

    def register(function: F) -> F:
        METHODS.add(MethodSpec(name=name, function=function, doc=inspect.getdoc(function) or "", **claims))
        return function

    return register


def metric(name: str, **claims: Any) -> Callable[[F], F]:
    """Register a metric: ``function(case, *, needs..., parameters=...) -> Score``; where ``scope`` is ``dataset``, of a Trial."""

    def register(function: F) -> F:
        METRICS.add(MetricSpec(name=name, function=function, doc=inspect.getdoc(function) or "", **claims))
        return function

    return register
