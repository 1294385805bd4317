"""Parameter types: what a keyword of a method or metric accepts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from xplain.core.errors import UsageError, did_you_mean

STEP = 10  # between the percentages of A..B


@dataclass(frozen=True)
class Bounds:
    """Limits of a number, both inclusive unless ``above`` names an exclusive lower limit."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def accepts(self, value: float) -> bool:
        """Whether ``value`` lies within the limits."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        low = f"over {self.above:g}" if self.above is not None else f"from {self.low:g}" if self.low is not None else ""
        return f"{low} to {self.high:g}".strip() if self.high is not None else low


@dataclass(frozen=True)
class TextFormat:
    """A form that a text must have. description: for help and errors. parse: raises ValueError for any other text."""

    description: str
    parse: Callable[[str], object]

    def accepts(self, text: str) -> bool:
        """Whether ``text`` has the form."""
        try:
            self.parse(text)
        except ValueError:
            return False
        return True


Steps = Annotated[int, Bounds(low=1)]


Positive = Annotated[float, Bounds(above=0)]


Fraction = Annotated[float, Bounds(low=0, high=1)]


@dataclass(frozen=True)
class Parameter:
    """A keyword of a registered function, with what it accepts."""

    name: str
    kind: type
    default: Any
    choices: tuple[str, ...] = ()
    bounds: Bounds | TextFormat | None = None
    optional: bool = False

    @classmethod
    def read(cls, name: str, default: Any, hint: Any) -> Parameter:
        """From a keyword's default and annotation (str, int, float, bool, Literal, Annotated, ``| None``)."""
        bounds: Bounds | TextFormat | None = None
        optional = False
        while get_origin(hint) in (Annotated, Union, UnionType):
            if get_origin(hint) is Annotated:
                hint, *extra = get_args(hint)
                bounds = next((each for each in extra if isinstance(each, Bounds | TextFormat)), bounds)
            else:
                optional = True
                (hint,) = (each for each in get_args(hint) if each is not NoneType)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        return cls(name, str if choices else hint, default, choices, bounds, optional)

    @property
    def accepts(self) -> str:
        """What may be written, for help and errors."""
        if isinstance(self.bounds, TextFormat):
            return self.bounds.description + (" or none" if self.optional else "")
        words = " or ".join(self.choices) or {int: "a whole number", float: "a number", bool: "true or false"}.get(
            self.kind, "text"
        )
        return words + (f" {self.bounds}" if self.bounds else "") + (" or none" if self.optional else "")

    def parse(self, value: Any, owner: str) -> Any:
        """``value`` (text from a command line, or a Python value) as this parameter's type, within its bounds."""
        if self.optional and (value is None or value == "none"):
            return None
        try:
            parsed = self._convert(value)
        except (ValueError, TypeError, KeyError):
            parsed = None
        if parsed is None or (self.bounds and not self.bounds.accepts(parsed)):
            near = did_you_mean(str(value), self.choices) if self.choices else ""
            raise UsageError(f"{owner}: {self.name}={value!s} is not accepted", near or f"give {self.accepts}")
        return parsed

    def _convert(self, value: Any) -> Any:
        if self.choices:
            return value if value in self.choices else None
        if self.kind is bool:
            return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]
        if value is None or isinstance(value, bool) or (self.kind is int and isinstance(value, float)):
            return None
        number = self.kind(value)
        return number if not isinstance(number, float) or math.isfinite(number) else None


def read_percentages(text: str) -> tuple[float, ...]:
    """The percentages of ``10+30+50``, or of ``10..90``, which counts up in tens. Rising, over 0 and at most 100.

    Raises ValueError for anything else.
    """
    first, dots, last = text.partition("..")
    if dots:
        found = tuple(float(each) for each in range(int(first), int(last) + 1, STEP))
    else:
        found = tuple(float(each) for each in text.split("+"))
    if not found or not all(0 < each <= 100 for each in found) or any(a >= b for a, b in pairwise(found)):
        raise ValueError(text)
    return found


Percentages = Annotated[str, TextFormat("rising percentages such as 10..90 or 10+30+50", read_percentages)]


def check_path(text: str) -> str:
    """The path of a file or folder. Raises ValueError when it is not there."""
    if not Path(text).exists():
        raise ValueError(text)
    return text


FILE = TextFormat("a file that is there", check_path)


NamedFile = Annotated[str, FILE]
