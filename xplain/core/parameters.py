"""Parameter types of methods and metrics: bounds, choices, percentages, paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Number
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from xplain.core.errors import UsageError, did_you_mean

MAX_INTEGER = 2**63 - 1  # of tensors
PERCENTAGE_STEP = 10  # of A..B
TYPE_DESCRIPTIONS = {int: "an integer", float: "a number", bool: "true or false"}
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Bounds:
    """Limits of a number. low, high: inclusive limits. above: exclusive lower limit."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def accepts(self, value: float) -> bool:
        """Return whether ``value`` lies within the limits."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        if self.above is None and self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        limits = []
        if self.above is not None:
            limits.append(f"> {self.above:g}")
        elif self.low is not None:
            limits.append(f">= {self.low:g}")
        if self.high is not None:
            limits.append(f"<= {self.high:g}")
        return " and ".join(limits)


@dataclass(frozen=True)
class TextFormat:
    """A required format of a text.

    description: for help and errors. parse: raises ValueError if the format is wrong.
    separator: a list of texts is accepted, and joined by it; empty if not.
    """

    description: str
    parse: Callable[[str], object]
    separator: str = ""

    def accepts(self, text: str) -> bool:
        """Return whether ``text`` has the format."""
        try:
            self.parse(text)
        except ValueError:
            return False
        return True


def read_percentages(text: str) -> tuple[float, ...]:
    """Parse percentages such as ``10+30+50`` or ``10..90``, which counts up in steps of 10.

    Raises ValueError unless they increase and lie in (0, 100].
    """
    first, dots, last = text.partition("..")
    if dots:
        percentages = tuple(float(value) for value in range(int(first), int(last) + 1, PERCENTAGE_STEP))
    else:
        percentages = tuple(float(value) for value in text.split("+"))
    is_in_range = all(0 < value <= 100 for value in percentages)
    is_increasing = all(a < b for a, b in pairwise(percentages))
    if not percentages or not is_in_range or not is_increasing:
        raise ValueError(text)
    return percentages


def check_path(text: str) -> str:
    """Return the path of an existing file or folder. Raises ValueError if it does not exist."""
    if not Path(text).exists():
        raise ValueError(text)
    return text


@dataclass(frozen=True)
class OrFile:
    """Marks choices beside which the path of an existing file is accepted.

    description: of the file, for help and errors. folders: accept folders too.
    """

    description: str
    folders: bool = False

    def accepts(self, value: Any) -> bool:
        """Return whether a value is the path of an existing file or, if accepted, of a folder."""
        if not isinstance(value, str | PathLike):
            return False
        return Path(value).is_file() or (self.folders and Path(value).is_dir())


PERCENTAGES = TextFormat("increasing percentages such as 10..90 or 10+30+50", read_percentages)
EXISTING_PATH = TextFormat("an existing file or folder", check_path)

Steps = Annotated[int, Bounds(low=1)]
AutoSteps = Annotated[int | Literal["auto"], Bounds(low=1)]  # auto: as many as the tolerance requires
Positive = Annotated[float, Bounds(above=0)]
Fraction = Annotated[float, Bounds(low=0, high=1)]
Percentages = Annotated[str, PERCENTAGES]
ExistingPath = Annotated[str, EXISTING_PATH]


@dataclass(frozen=True)
class Parameter:
    """Keyword parameter of a registered function and its accepted values.

    words: texts that are accepted in place of a number.
    """

    name: str
    kind: type
    default: Any
    choices: tuple[str, ...] = ()
    bounds: Bounds | TextFormat | None = None
    optional: bool = False
    file: OrFile | None = None
    words: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, default: Any, hint: Any) -> Parameter:
        """Return the parameter of a name, default and annotation.

        hint: str, int, float, bool, Literal, Annotated, ``| None``, or ``| Literal`` for words that replace a number.
        """
        bounds: Bounds | TextFormat | None = None
        optional = False
        file: OrFile | None = None
        words: tuple[str, ...] = ()
        while get_origin(hint) in (Annotated, Union, UnionType):
            if get_origin(hint) is Annotated:
                hint, *metadata = get_args(hint)
                bounds = next((item for item in metadata if isinstance(item, Bounds | TextFormat)), bounds)
                file = next((item for item in metadata if isinstance(item, OrFile)), file)
            else:
                members = [member for member in get_args(hint) if member is not NoneType]
                optional = optional or len(members) < len(get_args(hint))
                hint, *literals = sorted(members, key=_is_literal)
                words = tuple(word for literal in literals for word in get_args(literal))
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        return cls(name, str if choices else hint, default, choices, bounds, optional, file, words)

    @property
    def accepted_values(self) -> str:
        """Description of the accepted values, for help and errors."""
        if isinstance(self.bounds, TextFormat):
            words = self.bounds.description
        elif self.choices:
            words = " or ".join([*self.choices, *([self.file.description] if self.file else [])])
        else:
            words = TYPE_DESCRIPTIONS.get(self.kind, "text")
        if isinstance(self.bounds, Bounds):
            words = f"{words} {self.bounds}"
        return " or ".join([words, *self.words, *(["none"] if self.optional else [])])

    def parse(self, value: Any, owner: str) -> Any:
        """Convert ``value`` (text of a command line, or a Python value) to this parameter's type.

        owner: name of the method or metric, for the message. Raises UsageError if the value is not accepted.
        """
        if self.optional and (value is None or (isinstance(value, str) and value == "none")):
            return None
        if isinstance(value, str) and value in self.words:
            return value
        try:
            parsed = self._convert(value)
        except (ValueError, TypeError, KeyError, OverflowError, RuntimeError):  # RuntimeError: of tensors
            parsed = None
        if parsed is None or (self.bounds and not self.bounds.accepts(parsed)):
            usage = f"use {self.accepted_values}"
            hint = did_you_mean(str(value), self.choices, usage) if self.choices else usage
            raise UsageError(f"{owner}: invalid value {self.name}={value!s}", hint)
        return parsed

    def _convert(self, value: Any) -> Any:
        """Return ``value`` as this parameter's type, or None. Raises as its type does if that is impossible."""
        if self.choices:
            if isinstance(value, str) and value in self.choices:
                return value
            return str(value) if self.file is not None and self.file.accepts(value) else None
        if isinstance(value, list | tuple):
            return self._join(value)
        if self.kind is bool:
            return value if isinstance(value, bool) else BOOLEANS[str(value).lower()]
        if value is None or isinstance(value, bool) or (self.kind is int and isinstance(value, float)):
            return None
        if self.kind is str and not isinstance(value, str | Number | PathLike):
            return None
        converted = self.kind(value)
        if isinstance(converted, float) and not math.isfinite(converted):
            return None
        if isinstance(converted, int) and abs(converted) > MAX_INTEGER:
            return None
        return converted

    def _join(self, values: Sequence[Any]) -> str | None:
        """Return a list of texts as one text, or None if the parameter takes no list."""
        separator = self.bounds.separator if isinstance(self.bounds, TextFormat) else ""
        if not separator or not values or not all(isinstance(value, str) for value in values):
            return None
        return separator.join(values)


def _is_literal(hint: Any) -> bool:
    """Return whether an annotation is a Literal."""
    return get_origin(hint) is Literal
