"""Reference of methods and metrics for people and programs: definitions and parameters, read from the registrations.

A docstring is the summary, a blank line, the definition, a blank line, and one entry ``name: meaning`` per argument. An entry ends at
the next one, at a blank line or at a line that begins with "Raises". An entry ``name: as in ``deletion``.`` takes over the
meaning of the same parameter of another method or metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar, overload

from xplain.core.parameters import EXISTING_PATH, Bounds, Parameter, TextFormat
from xplain.core.registry import METHODS, METRICS, MetricSpec, Registry, Spec

ENTRY = re.compile(r"([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)")
REFERENCE = re.compile(r"as in ``([\w-]+)``\.")
IMAGES_AND_TARGETS = ("x", "y")  # arguments of every method


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter of a method or metric.

    type: int, float, bool, str or path. default: None if there is none.
    choices: accepted texts; empty if there are others. bounds: accepted values in words; empty if the type says all.
    meaning: what the parameter does; empty if it is not described.
    """

    name: str
    type: str
    default: Any
    choices: tuple[str, ...]
    bounds: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name}={format_value(self.default)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self) | {"choices": list(self.choices)}


@dataclass(frozen=True)
class MethodInfo:
    """An attribution method.

    summary: what it computes, in a sentence. description: the definition. paper: citation; empty for a control.
    """

    name: str
    alias: str
    summary: str
    description: str
    parameters: tuple[ParameterInfo, ...]
    paper: str

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))}): {self.summary}"


@dataclass(frozen=True, repr=False)
class MetricInfo(MethodInfo):
    """A metric. better: whether higher or lower values are better, or neither. unit: of the values."""

    better: str
    unit: str


E = TypeVar("E", bound=MethodInfo)


class InfoList(Sequence[E], Generic[E]):
    """Methods or metrics, by position, name or alias. A console shows one line per entry."""

    def __init__(self, entries: Iterable[E]) -> None:
        self._entries = list(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, key: int | str) -> E: ...
    @overload
    def __getitem__(self, key: slice) -> InfoList[E]: ...
    def __getitem__(self, key: int | str | slice) -> E | InfoList[E]:
        if isinstance(key, slice):
            return InfoList(self._entries[key])
        if isinstance(key, int):
            return self._entries[key]
        for entry in self._entries:
            if key in (entry.name, entry.alias):
                return entry
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Return whether there is such an entry, or one with this name or alias."""
        return any(key in (entry, entry.name, entry.alias or entry.name) for entry in self._entries)

    @property
    def names(self) -> list[str]:
        """The names, without aliases."""
        return [entry.name for entry in self._entries]

    def __repr__(self) -> str:
        width = max((len(entry.name) for entry in self._entries), default=0)
        return "\n".join(f"{entry.name:<{width}}  {entry.summary}" for entry in self._entries)


def list_methods() -> InfoList[MethodInfo]:
    """Return all attribution methods, with what they compute and their parameters."""
    return InfoList(
        MethodInfo(
            spec.name,
            spec.alias,
            spec.summary,
            describe_definition(spec),
            tuple(describe_parameters(spec, METHODS)),
            spec.paper.citation if spec.paper else "",
        )
        for spec in METHODS
    )


def list_metrics() -> InfoList[MetricInfo]:
    """Return all metrics, with what they compute and their parameters."""
    return InfoList(
        MetricInfo(
            spec.name,
            spec.alias,
            spec.summary,
            describe_definition(spec),
            tuple(describe_parameters(spec, METRICS)),
            spec.paper.citation if spec.paper else "",
            spec.better,
            spec.unit,
        )
        for spec in METRICS
    )


def registry_of(spec: Spec) -> Registry[Any]:
    """Return the registry of a method or metric."""
    return METRICS if isinstance(spec, MetricSpec) else METHODS


def describe_parameters(spec: Spec, registry: Registry[Any] | None = None) -> list[ParameterInfo]:
    """Return the parameters in the order of the registration. The meaning of one that the docstring does not describe is empty."""
    meanings = find_meanings(spec, registry or registry_of(spec))
    return [
        ParameterInfo(
            parameter.name,
            describe_type(parameter),
            parameter.default,
            parameter.choices,
            _describe_bounds(parameter),
            meanings.get(parameter.name, ""),
        )
        for parameter in spec.parameters.values()
    ]


def describe_usage(spec: Spec) -> list[str]:
    """Return ``name=default`` for each parameter, followed by its other choices, such as ``variant=official|paper``."""
    texts = []
    for parameter in spec.parameters.values():
        others = [choice for choice in (*parameter.choices, *parameter.words) if choice != parameter.default]
        file = ["FILE"] if parameter.file else []
        file += ["DIR"] if parameter.file and parameter.file.folders else []
        default = parameter.default
        text = str(default) if isinstance(default, float) else format_value(default)  # 1.0, with all digits
        values = "|".join([text, *others, *file])
        texts.append(f"{parameter.name}={values}")
    return texts


def describe_type(parameter: Parameter) -> str:
    """Return ``int``, ``float``, ``bool``, ``str``, or ``path`` for files."""
    if parameter.bounds == EXISTING_PATH:
        return "path"
    return parameter.kind.__name__


def _describe_bounds(parameter: Parameter) -> str:
    """Return the limits of a number, the format of a text, or the files that are accepted beside the choices; and ``none``."""
    texts = []
    if isinstance(parameter.bounds, Bounds):
        texts.append(str(parameter.bounds))
    elif isinstance(parameter.bounds, TextFormat):
        texts.append(parameter.bounds.description)
    if parameter.file is not None:
        texts.append(parameter.file.description)
    return " or ".join([*texts, *parameter.words, *(["none"] if parameter.optional else [])])


def format_value(value: Any) -> str:
    """Return a value as on the command line: ``none``, ``true``, numbers without needless digits."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def find_meanings(spec: Spec, registry: Registry[Any]) -> dict[str, str]:
    """Return the meaning of each argument that the docstring describes. References to other specs are replaced by their text."""
    meanings = {}
    for name, text in _read_entries(spec)[1].items():
        reference = REFERENCE.match(text)
        if reference is not None:
            rest = text[reference.end() :].strip()
            text = f"{find_meanings(registry.get(reference[1]), registry).get(name, '')} {rest}".strip()
        meanings[name] = text
    return meanings


def describe_definition(spec: Spec) -> str:
    """Return the docstring without the summary and the entries of the arguments: paragraphs, separated by blank lines."""
    return _read_entries(spec)[0]


def _read_entries(spec: Spec) -> tuple[str, dict[str, str]]:
    """Return the definition, and the texts of the entries by argument."""
    known = {*spec.parameters, *spec.needs, *IMAGES_AND_TARGETS}
    entries: dict[str, list[str]] = {}
    open_entry: list[str] | None = None
    definition = []
    for line in spec.doc.splitlines()[1:]:
        match = ENTRY.match(line)
        names = match[1].split(", ") if match else []
        if match and known.issuperset(names):
            open_entry = [match[2]]
            entries |= dict.fromkeys(names, open_entry)
        elif line.startswith("Raises") or not line.strip():
            open_entry = None
            definition.append(line)
        elif open_entry is not None:
            open_entry.append(line)
        else:
            definition.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(definition)).strip()
    return text, {name: " ".join(lines) for name, lines in entries.items()}
