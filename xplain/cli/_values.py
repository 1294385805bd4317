"""Values of options: check what a file or the environment says, name its origin in errors, and expand ``~``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature, unwrap
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.models import OptionInfo

from xplain.core.errors import UsageError, XplainError, did_you_mean
from xplain.core.parameters import TYPE_DESCRIPTIONS, Bounds, TextFormat
from xplain.core.sweeps import SEPARATOR

HOME = re.compile(r"(^@?|[:=])(~[^/\\:=]*)(?=[/\\]|$)")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
UNBOUNDED = Bounds()


def expand_home(value: Any) -> Any:
    """Expand ``~`` at the start of a path, and of a path after ``@``, ``:`` or ``=``: ``script:~/net.pt``, ``eg:baselines=~/photos``."""
    match value:
        case str():
            if "\0" in value:  # cannot be a path
                return value
            return HOME.sub(lambda match: match[1] + os.path.expanduser(match[2]), value)  # noqa: PTH111  (keeps unknown users)
        case Path():
            return Path(expand_home(str(value)))
        case list():
            return [expand_home(element) for element in value]
    return value


@dataclass(frozen=True)
class ValueType:
    """The values that an option accepts. kind: str, int, float, bool or Path. repeatable: a list of values. format: of a text."""

    kind: type
    choices: tuple[str, ...] = ()
    bounds: Bounds = UNBOUNDED
    repeatable: bool = False
    format: TextFormat | None = None

    @classmethod
    def read(cls, annotation: Any) -> ValueType:
        """Return the type of a parameter that is annotated as ``Annotated[kind, option(...)]``, with a TextFormat or without."""
        bounds, repeatable = UNBOUNDED, False
        text_format: TextFormat | None = None
        kind = annotation
        if get_origin(kind) is Annotated:
            kind, *metadata = get_args(kind)
            info = next((entry for entry in metadata if isinstance(entry, OptionInfo)), None)
            bounds = Bounds(info.min, info.max) if info else bounds
            text_format = next((entry for entry in metadata if isinstance(entry, TextFormat)), None)
        members = [member for member in get_args(kind) if member is not NoneType]
        if NoneType in get_args(kind):
            (kind,) = members
        if get_origin(kind) is list:
            (kind,), repeatable = get_args(kind), True
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        return cls(str if choices else kind, choices, bounds, repeatable, text_format)

    @property
    def description(self) -> str:
        """The accepted values, for errors."""
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.format is not None:
            return self.format.description
        words = TYPE_DESCRIPTIONS.get(self.kind, "a path" if self.kind is Path else "text")
        return f"{words} {self.bounds}".strip()

    def convert(self, value: Any) -> Any:
        """Return a value of a TOML file as the option's type, or None if it is not accepted."""
        if self.repeatable:
            elements = value if isinstance(value, list) else [value]
            converted = [self._convert_one(element) for element in elements]
            return None if None in converted else converted
        return self._convert_one(value)

    def _convert_one(self, value: Any) -> Any:
        if self.kind is bool:
            return BOOLEANS.get(str(value).lower()) if isinstance(value, bool | int | str) else None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        if self.kind in (int, float):
            return self._convert_number(value)
        text = str(value)
        if self.format is not None and not self.format.accepts(text):
            return None
        return None if self.choices and text not in self.choices else text

    def _convert_number(self, value: str | float) -> Any:
        try:
            number = self.kind(value)
            if not self.bounds.accepts(number) or (isinstance(value, float) and number != value):
                return None
        except (ValueError, OverflowError):
            return None
        return number


def value_types(context: typer.Context) -> dict[str, ValueType]:
    """Return the type of each option of the command that is being parsed."""
    command = unwrap(context.command.callback or _no_command)
    parameters = signature(command, eval_str=True).parameters.values()
    return {parameter.name: ValueType.read(parameter.annotation) for parameter in parameters}


def _no_command() -> None:
    """Do nothing; the callback of a command without one."""


TEXTS = ("prompt", "template")  # parameters whose values contain spaces


def read_text_lines(context: typer.Context, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the texts that were set in the environment, one per line. The parser splits the values of lists at spaces."""
    variables = {parameter.name: str(parameter.envvar) for parameter in context.command.params}
    return {
        name: [line for line in os.environ[variables[name]].splitlines() if line.strip()]
        for name in TEXTS
        if values.get(name) and context.get_parameter_source(name).name == "ENVIRONMENT"  # type: ignore[union-attr]
    }


def refuse_value(name: str, value: Any, accepted: ValueType) -> UsageError:
    """Return the error of a value that an option does not accept. name: ``'seed' in c.toml`` or ``'--seed'``."""
    usage = f"use {accepted.description}"
    if isinstance(value, list) and not accepted.repeatable:
        usage += ", not a list"
    hint = did_you_mean(str(value), accepted.choices, usage) if accepted.choices else usage
    return UsageError(f"invalid value for {name}: {_show(value)}", hint)


def _show(value: Any) -> str:
    """Return a value of a TOML file or of the command line as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str | int | float | list | dict) else str(value)


def refuse_parsed_value(error: typer.TyperException) -> UsageError | None:
    """Return the error of a value on the command line or in the environment, in the words of ``refuse_value``.

    None for an error of another kind.
    """
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if type(error) is not typer.BadParameter or context is None or parameter is None:
        return None
    accepted = value_types(context)[parameter.name]
    if context.get_parameter_source(parameter.name).name == "ENVIRONMENT":
        return refuse_value(parameter.envvar, os.environ[parameter.envvar], accepted)
    return refuse_value(repr(max(parameter.opts, key=len)), _input_of(error), accepted)


def _input_of(error: typer.BadParameter) -> Any:
    """Return the value that the option parser did not accept, or its message if it does not have the value."""
    errors = getattr(error.__cause__, "errors", None)
    inputs = [entry["input"] for entry in errors()] if errors is not None else [error.message]
    return inputs[0]


def name_origin(error: XplainError, context: typer.Context, values: Mapping[str, Any]) -> XplainError:
    """Return the error, preceded by the file and key or the environment variable whose value it complains about.

    values: the values that the command used, by parameter.
    """
    if f" in {context.params.get('config')}" in str(error):
        return error
    for parameter in context.command.params:
        origin = _origin_of(context, parameter)
        value = values.get(str(parameter.name))
        if origin and value is not None and any(part in str(error) for part in _quoted_parts(value)):
            return type(error)(f"{origin}: {error}")
    return error


def _origin_of(context: typer.Context, parameter: Any) -> str:
    """Return ``seed in c.toml`` or ``XPLAIN_SEED`` if the value of an option comes from there, else an empty text."""
    source = context.get_parameter_source(parameter.name)
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar)
    if source is not None and source.name == "DEFAULT_MAP":
        return f"{long_name(parameter)} in {context.params['config']}"
    return ""


def long_name(parameter: Any) -> str:
    """Return the name of an option in a configuration file: ``batch-size``."""
    return str(max(parameter.opts, key=len)).removeprefix("--")


def _quoted_parts(value: Any) -> Iterator[str]:
    """Yield how an error may quote a value: all of it, or the name or a parameter of a method."""
    for element in value if isinstance(value, list) else [value]:
        yield repr(str(element))
        if isinstance(element, str) and element.isdecimal():
            yield f"index {element} "
        for part in re.split("[:,]", str(element)) if isinstance(element, str) else ():
            if "=" in part:
                key, _, values = part.partition("=")
                for value in values.split(SEPARATOR):
                    yield from (f"{key}={value} ", f"{key}={value};")
                yield repr(key.strip())
            if part:
                yield repr(part)
