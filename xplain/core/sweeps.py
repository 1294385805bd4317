"""Sweeps of parameters: ``neflag:radius=0.05|0.1|0.2`` stands for three methods."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from xplain.core.config import Choice
from xplain.core.errors import UsageError

SEPARATOR = "|"
MAX_METHODS = 1000  # of one sweep


def parse_methods(texts: Iterable[str] | str) -> list[str]:
    """Return one text ``NAME[:key=value[,key=value]]`` per method, as ``attribute`` and ``--method`` accept them.

    ``neflag:radius=0.05|0.1|0.2`` gives three methods that differ in one parameter. Several swept parameters give all combinations, with
    those of the last parameter next to each other. Parameters of an inner method are swept too: ``smooth:method=ig:steps=5|10``.

    Raises UsageError if a parameter is not ``key=value``, or for more than MAX_METHODS methods in one text.
    """
    if isinstance(texts, str):
        texts = [texts]
    return [text for sweep in texts for text in expand_sweep(sweep)]


def expand_sweep(text: str) -> list[str]:
    """Return the methods of one text: itself if no parameter has several values."""
    if SEPARATOR not in text:
        return [text]
    choice = Choice.parse(text)
    values = [_list_values(value, text) for _, value in choice.params]
    if math.prod(map(len, values)) > MAX_METHODS:
        raise UsageError(f"{_shorten(text)!r} stands for more than {MAX_METHODS} methods", "use fewer values")
    keys = [key for key, _ in choice.params]
    methods = []
    for combination in product(*values):
        params = ",".join(f"{key}={value}" for key, value in zip(keys, combination, strict=True))
        methods.append(f"{choice.name}:{params}" if params else choice.name)
    return methods


def parse_choices(texts: Iterable[str]) -> tuple[Choice, ...]:
    """Parse methods of the command line, with sweeps."""
    return tuple(Choice.parse(text) for text in parse_methods(texts))


def parse_single(text: str) -> Choice:
    """Parse one method. Raises UsageError for a sweep."""
    methods = expand_sweep(text)
    if len(methods) > 1:
        raise UsageError(
            f"{_shorten(text)!r} stands for {len(methods)} methods", "pass one of the texts of xplain.parse_methods"
        )
    return Choice.parse(methods[0])


def _list_values(value: str, text: str) -> list[str]:
    """Return the values of a parameter: one if it has no separator or is an existing path."""
    if SEPARATOR not in value or _exists(value):
        return [value]
    name, colon, params = value.partition(":")
    if colon and "=" in params and SEPARATOR not in name:  # the parameters of an inner method
        inner = expand_sweep(value.replace("+", ","))
        return [entry.replace(",", "+") for entry in inner]
    values = [part.strip() for part in value.split(SEPARATOR)]
    if not all(values):
        raise UsageError(f"a value is missing in {value!r} of {_shorten(text)!r}", "use key=value|value")
    return values


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that is too long, or with a null byte
        return False


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"
