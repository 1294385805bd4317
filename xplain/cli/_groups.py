"""Option groups: frozen dataclasses whose annotated fields become command-line options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from xplain.cli._values import expand_home, name_origin, read_text_lines
from xplain.core.errors import XplainError
from xplain.core.options import Option


def option(*flags: str, help: str, **settings: Any) -> Any:
    """Return a Typer option that can also be set with the environment variable XPLAIN_<LONG NAME>."""
    long = next(flag for flag in flags if flag.startswith("--"))
    variable = f"XPLAIN_{long[2:].replace('-', '_').upper()}"
    return typer.Option(*flags, help=help, envvar=variable, **settings)


def with_groups(command: Callable[..., int]) -> Callable[..., int]:
    """Return a function in whose signature each option group is replaced by its options.

    A group is a parameter whose type is a dataclass. Its fields are ``Annotated[type, Option(...)]`` (see ``xplain.core.options``) or
    ``Annotated[type, option(...)]``, with a default; other fields keep their default. ``~`` is expanded in every value, and an error names
    the file or the environment variable of the value that it quotes. A command may take the parser's context as ``context``.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}

    def run(context: typer.Context, **options: Any) -> int:
        values = {name: expand_home(value) for name, value in options.items()}
        values |= read_text_lines(context, values)
        arguments = {**values, "context": context} if "context" in hints else dict(values)
        try:
            arguments |= {name: _make_group(kind, arguments) for name, kind in groups.items()}
            return command(**arguments)
        except XplainError as error:
            raise name_origin(error, context, values) from None

    context = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *_list_parameters(command, hints, groups)]
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]  # the parser reads both
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _make_group(kind: type, values: dict[str, Any]) -> Any:
    """Pop the option values of a group from ``values`` and return the group. Raise UsageError for invalid text."""
    arguments = {}
    for field, hint in _offered_fields(kind):
        value = values.pop(field.name)
        settings = _option_of(hint)
        if isinstance(settings, Option) and settings.parse is not None:
            value = settings.parse(value)
        elif isinstance(value, list):
            value = tuple(value)
        arguments[field.name] = value
    return kind(**arguments)


def _list_parameters(
    command: Callable[..., int], hints: Mapping[str, Any], groups: Mapping[str, type]
) -> Iterator[Parameter]:
    """Yield the parameters of a command in order. A group yields one parameter per option."""
    for parameter in signature(command).parameters.values():
        if parameter.name == "context":
            continue  # of every command
        if parameter.name not in groups:
            yield parameter.replace(annotation=hints[parameter.name])
            continue
        for field, hint in _offered_fields(groups[parameter.name]):
            yield _make_parameter(field, hint)


def _make_parameter(field: Field[Any], hint: Any) -> Parameter:
    settings = _option_of(hint)
    default, annotation = field.default, hint
    if isinstance(settings, Option):
        kind = get_args(hint)[0]
        if settings.parse is not None:
            kind, default = str, settings.text_default
        elif kind == tuple[str, ...]:
            kind, default = list[str], []
        made = option(*settings.flags.split(), help=settings.help, min=settings.low, max=settings.high)
        annotation = Annotated[kind, made]
    return Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _offered_fields(kind: type) -> Iterator[tuple[Field[Any], Any]]:
    """Yield the fields of a group that have an option, with their types."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if _option_of(hints[field.name]) is not None:
            yield field, hints[field.name]


def _option_of(hint: Any) -> Option | OptionInfo | None:
    metadata = getattr(hint, "__metadata__", ())
    return next((entry for entry in metadata if isinstance(entry, Option | OptionInfo)), None)
