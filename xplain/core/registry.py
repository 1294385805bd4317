"""Register methods and metrics, and look them up by name.

A registration is one decorated function. Its keyword-only parameters, with annotations, defaults and bounds, define the
command-line syntax, the validation, the documentation and the recorded settings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Generic, Literal, TypeVar, get_type_hints

from xplain.core.errors import UsageError, did_you_mean
from xplain.core.option_words import is_command
from xplain.core.papers import Paper
from xplain.core.parameters import Parameter
from xplain.core.types import ScoreKind

# What a method or metric needs of the model: calls only, its modules too, or also gradients.
Access = Literal["outputs", "layers", "gradients"]


@dataclass(frozen=True, eq=False)
class Spec:
    """A registered function.

    access: what the function needs of the model: ``outputs``, its ``layers`` too, or also ``gradients``.
    alias: a shorter name. synonyms: names of its special cases. paper: where it is defined. doc: the function's docstring.
    deviations: how the implementation differs from the paper. version: of the definition; increases when numbers change.
    parameter_aliases: other names of parameters.
    added: parameters that earlier versions do not have. Records omit them at their default, so that runs are continued.
    """

    name: str
    function: Callable[..., Any]
    alias: str = ""
    paper: Paper | None = None
    doc: str = ""
    deviations: str = ""
    version: int = 1
    added: frozenset[str] = frozenset()
    synonyms: tuple[str, ...] = ()
    access: Access = "outputs"
    parameter_aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The name, the alias and the synonyms."""
        return [self.name, *filter(None, (self.alias, *self.synonyms))]

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """User parameters by name: the keyword-only parameters with a default."""
        hints = get_type_hints(self.function, include_extras=True)
        return {
            name: Parameter.read(name, keyword.default, hints[name])
            for name, keyword in self._keywords.items()
            if keyword.default is not keyword.empty
        }

    @cached_property
    def needs(self) -> frozenset[str]:
        """The names of the arguments that xplain passes itself (``rng``, ``against``, ...): keyword-only, without a default."""
        return frozenset(name for name, keyword in self._keywords.items() if keyword.default is keyword.empty)

    @property
    def _keywords(self) -> dict[str, inspect.Parameter]:
        signature = inspect.signature(self.function)
        return {name: value for name, value in signature.parameters.items() if value.kind is value.KEYWORD_ONLY}

    def rename(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters under their own names instead of ``parameter_aliases``. Raises UsageError if both are given."""
        renamed: dict[str, Any] = {}
        for name, value in given.items():
            own = self.parameter_aliases.get(name, name)
            if own in renamed:
                alias = next(alias for alias, target in self.parameter_aliases.items() if target == own)
                raise UsageError(f"{self.name}: {alias} and {own} are the same parameter", "set only one of them")
            renamed[own] = value
        return renamed

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters: the given values, validated, and the defaults of the others.

        Raises UsageError if a name is unknown or a value is not accepted.
        """
        given = self.rename(given)
        for name in given:
            if name not in self.parameters:
                usage = f"use {' or '.join(self.parameters)}" if self.parameters else "remove it"
                hint = did_you_mean(name, self.parameters, usage)
                raise UsageError(f"{self.name} has no parameter {name!r}", hint)
        return {
            name: parameter.parse(given[name], self.name) if name in given else parameter.default
            for name, parameter in self.parameters.items()
        }

    def describe_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings as records hold them: without added parameters at their default."""
        return {
            name: value
            for name, value in settings.items()
            if name not in self.added or value != self.parameters[name].default
        }

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return re.split(r"(?<=\.)\s", " ".join(self.doc.split()), maxsplit=1)[0]


@dataclass(frozen=True, eq=False)
class MethodSpec(Spec):
    """An attribution method.

    A method that requires the argument ``run`` runs another one, which its parameter ``method`` names, and takes over its score
    and its access to the model.

    score: the explained score, if the user does not choose one.
    axioms: the axioms that the method satisfies at its default parameters.
    limits: parameters at which an axiom holds approximately or not at all, with the measured error.
    violates: axioms that the method violates on a known network.
    undecided: axioms that are neither satisfied nor violated, with the reason.
    cost: cost(**params) -> (forward, backward) rows per image.
    at_most: the cost is an upper bound, because paths can end early.
    slopes: values are slopes (score per pixel change); otherwise contributions, which include a factor such as x - x'.
    draws: name for random draws that several methods share; "" draws separately.
    parallel: parallel(**params) -> rows of one image that can share a model call. If it is small, images are batched.
    rounding: how much two correct float32 runs can differ, if signs or ranks amplify rounding.
    starts_with: what the method computes first at the images themselves, the ``gradients`` or the ``layers`` of its parameter
    ``layer``, so that it can share the forward pass of the prediction; empty if nothing.
    plain: run the network without folded batch norms, so that methods that amplify rounding agree with other implementations
    as far as possible.
    """

    access: Access = "gradients"
    score: ScoreKind = "logit"
    axioms: frozenset[str] = frozenset()
    limits: str = ""
    violates: frozenset[str] = frozenset()
    undecided: Mapping[str, str] = field(default_factory=dict)
    cost: Callable[..., tuple[int, int]] = field(default=lambda **_: (1, 1))
    at_most: bool = False
    slopes: bool = False
    draws: str = ""
    parallel: Callable[..., int] = field(default=lambda **_: 1)
    rounding: str = ""
    plain: bool = False
    starts_with: Literal["", "gradients", "layers"] = ""


@dataclass(frozen=True, eq=False)
class MetricSpec(Spec):
    """A metric: one value per image, or, if ``scope`` is "dataset", one value per trial on the whole data set.

    better: whether higher or lower values are better, or neither. bounds: range of values at the default parameters.
    unit: unit of the values. axis: what the curve's horizontal axis shows.
    draws: name for random draws that several metrics share; "" draws separately.
    forwards: forwards(side=, **params) -> forward rows for an image of ``side`` pixels.
    attributions: attributions(**params) -> how often the method runs again.
    undefined: when the metric has no value.
    has_chance: scores state the expected value of a random map.
    average: what describes the values of a data set; the median for metrics with heavy tails.

    A metric function can require these keyword-only arguments without a default: ``rng`` (random streams of the image and the
    metric, equal for every method), ``seed`` (for what all images share), ``explain`` (runs the method again), ``expected`` (the sums
    that the attributions should have, or None) and ``load`` (loads the classifier with the weights of a file).
    """

    better: Literal["higher", "lower", "neither"] = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    axis: str = "fraction of pixels"
    draws: str = ""
    forwards: Callable[..., int] = field(default=lambda **_: 0)
    attributions: Callable[..., int] = field(default=lambda **_: 0)
    undefined: str = "never"
    scope: Literal["image", "dataset"] = "image"
    has_chance: bool = False
    average: Literal["mean", "median"] = "mean"


S = TypeVar("S", bound=Spec)


class Registry(Generic[S]):
    """Specs by name, alias and synonym, in the order in which their names are declared.

    A package declares which of its modules registers which names. The names are known without importing the modules, which need torch;
    a module is imported when one of its names is looked up.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._modules: dict[str, str] = {}  # by declared name
        self._specs: dict[str, S] = {}
        self._aliases: dict[str, str] = {}
        self.hints: dict[str, str] = {}  # by unknown names that stand for several registered ones

    def declare(self, module: str, *names: str) -> None:
        """Declare the names that a module registers when it is imported."""
        for name in names:
            self._modules[name] = module

    @property
    def names(self) -> list[str]:
        """The declared names, without aliases."""
        return list(self._modules)

    def add(self, spec: S) -> None:
        """Register ``spec``. Raises ValueError if one of its names is taken."""
        for name in spec.names:
            if name in self._specs or name in self._aliases:
                raise ValueError(f"{self.kind} {name!r} is already registered")
        self._specs[spec.name] = spec
        self._aliases.update(dict.fromkeys(spec.names[1:], spec.name))

    def get(self, name: str) -> S:
        """Return the spec of a name, alias or synonym, with or without hyphens. Raises UsageError with similar names."""
        if not isinstance(name, str):
            raise UsageError(
                f"the {self.kind} is of type {type(name).__name__}", f"pass a name; see xplain list {self.kind}s"
            )
        name = self._find_spelling(name, self._modules)
        if name in self._modules:
            import_module(self._modules[name])
        elif name not in self._specs:
            self._import_all()
        name = self._find_spelling(name, (*self._specs, *self._aliases))
        key = self._aliases.get(name, name)
        if key not in self._specs:
            raise UsageError(f"unknown {self.kind} {name!r}", self._hint(name))
        return self._specs[key]

    def _hint(self, name: str) -> str:
        """Return what to write instead of an unknown name."""
        if "," in name:  # several names in one text
            option = "-M" if self.kind == "metric" else "-a"
            names = " ".join(f"{option} {part.strip()}" for part in name.split(",") if part.strip())
            return (
                f"repeat {option}: {names}" if is_command() else "pass one name, or a list of names to xplain.evaluate"
            )
        known = [*self._specs, *self._aliases]
        return self.hints.get(name) or did_you_mean(name, known, f"see xplain list {self.kind}s")

    @staticmethod
    def _find_spelling(name: str, known: Collection[str]) -> str:
        """Return the known name that differs only in hyphens, underscores and ``++`` (``gradcam++``), or the name as it is."""
        plain = _without_hyphens(name)
        if name in known or not plain:
            return name
        return next((candidate for candidate in known if _without_hyphens(candidate) == plain), name)

    def __iter__(self) -> Iterator[S]:
        self._import_all()
        others = [name for name in self._specs if name not in self._modules]
        return iter([self._specs[name] for name in (*self._modules, *others)])

    def _import_all(self) -> None:
        for module in dict.fromkeys(self._modules.values()):
            import_module(module)


def _without_hyphens(name: str) -> str:
    return name.replace("++", "plusplus").replace("-", "").replace("_", "")


METHODS: Registry[MethodSpec] = Registry("method")
METRICS: Registry[MetricSpec] = Registry("metric")

F = TypeVar("F", bound=Callable[..., Any])


def method(name: str, **claims: Any) -> Callable[[F], F]:
    """Register an attribution method: ``function(oracle, x, y, *, needs..., parameters=...) -> Attribution``.

    claims: fields of MethodSpec.
    """

    def register(function: F) -> F:
        METHODS.add(MethodSpec(name=name, function=function, doc=inspect.getdoc(function) or "", **claims))
        return function

    return register


def metric(name: str, **claims: Any) -> Callable[[F], F]:
    """Register a metric: ``function(inputs, *, needs..., parameters=...) -> Score``.

    ``inputs`` is a MetricInput, or a Trial if ``scope`` is "dataset". claims: fields of MetricSpec.
    """

    def register(function: F) -> F:
        METRICS.add(MetricSpec(name=name, function=function, doc=inspect.getdoc(function) or "", **claims))
        return function

    return register
