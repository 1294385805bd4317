"""Options in groups: a command takes a group as one frozen dataclass, and offers each of its fields as an option."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

import typer


def option(*names: str, help: str, **more: Any) -> Any:
    """A typer option that can also be set by the environment: XPLAIN_ and its long form."""
    long = next(name for name in names if name.startswith("--"))
    return typer.Option(*names, help=help, envvar=f"XPLAIN_{long[2:].replace('-', '_').upper()}", **more)


def with_groups(command: Callable[..., int]) -> Callable[..., int]:
    """The command as the parser sees it: in the place of each group stand the group's options.

    A group is a parameter whose type is a dataclass; each field has a default and the type ``Annotated[..., option(...)]``.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}

    def run(**values: Any) -> int:
        made = {
            name: kind(**{each.name: values.pop(each.name) for each in fields(kind)}) for name, kind in groups.items()
        }
        return command(**values, **made)

    offered = list(_parameters(command, hints, groups))
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = Signature(offered, return_annotation=int)  # type: ignore[attr-defined]  # the parser reads both
    run.__annotations__ = {each.name: each.annotation for each in offered}
    return run


def _parameters(
    command: Callable[..., int], hints: Mapping[str, Any], groups: Mapping[str, type]
) -> Iterator[Parameter]:
    """The command's parameters in order, with their types; of a group its fields."""
    for each in signature(command).parameters.values():
        if each.name not in groups:
            yield each.replace(annotation=hints[each.name])
            continue
        types = get_type_hints(groups[each.name], include_extras=True)
        for field in fields(groups[each.name]):
            kind = Parameter.POSITIONAL_OR_KEYWORD
            yield Parameter(field.name, kind, default=field.default, annotation=types[field.name])
