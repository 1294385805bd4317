"""Describe what a command was asked for, to recognize the output of the same request."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from xplain.core.config import Choice

UNTRAINED = "random"  # a value of --weights that is no file
Request = dict[str, Any]


def changed_options(options: Any, ignored: Collection[str] = ()) -> Request:
    """Return the fields of a dataclass of options that differ from their defaults, as JSON holds them.

    Fields that equal their default are omitted, so that the description stays the same when an option is added.
    ignored: names of fields to omit.
    """
    return {
        field.name: _to_json(getattr(options, field.name))
        for field in fields(options)
        if field.name not in ignored and getattr(options, field.name) != _default(field)
    }


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _to_json(value: Any) -> Any:
    if isinstance(value, Choice):
        params = ",".join(f"{key}={text}" for key, text in value.params)
        return f"{value.name}:{params}" if params else value.name
    if isinstance(value, Path):
        return str(value) if str(value) == UNTRAINED else describe_path(str(value))
    if isinstance(value, tuple | list):
        return [_to_json(entry) for entry in value]
    return value


def describe_path(path: str) -> str:
    """Return one text for all spellings of a path: relative to the current directory if it is inside, otherwise absolute."""
    try:
        real, here = Path(os.path.realpath(path)), Path(os.path.realpath(Path()))
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return path
    return real.relative_to(here).as_posix() if real.is_relative_to(here) else real.as_posix()


def find_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return a text that names the first option in which two requests differ, or "" if they are equal."""
    for name in dict.fromkeys((*new, *old)):
        if old.get(name) != new.get(name):
            texts = ["the default" if value is None else repr(value) for value in (old.get(name), new.get(name))]
            return f"{name.replace('_', ' ')}: {texts[0]} instead of {texts[1]}"
    return ""
