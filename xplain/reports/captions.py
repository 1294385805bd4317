"""Captions of figures: the method with the settings that differ from its defaults, and the explained class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from xplain.core.files import printable
from xplain.core.registry import METHODS
from xplain.reports.class_texts import class_name
from xplain.reports.stability_summary import describe_stability


def caption(record: Mapping[str, Any]) -> str:
    """Return ``METHOD (param=value, ...) for “CLASS”; stability ...`` without parameters at their defaults."""
    return " ".join(_caption_parts(record))


def wrap_caption(record: Mapping[str, Any], width: int) -> str:
    """Return the caption with lines of at most ``width`` characters, which do not break within the name of a class.

    Control characters are escaped. Parts that are longer than a line are cut and end with an ellipsis.
    """
    lines: list[str] = []
    for part in map(printable, _caption_parts(record)):
        text = part if len(part) <= width else part[: width - 1] + "…"
        if lines and len(lines[-1]) + 1 + len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(text)
    return "\n".join(lines)


def _caption_parts(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words of the caption. The quoted name of a class is one word."""
    yield str(record.get("method"))
    if settings := changed_settings(record):
        texts = [f"{name}={json.dumps(value).strip(chr(34))}" for name, value in settings.items()]
        yield from f"({', '.join(texts)})".split(" ")
    yield "for"
    stability = describe_stability(record)
    yield f"“{_name(record.get('target', {}))}”{';' if stability else ''}"
    yield from stability.split()


def _name(description: Mapping[str, Any]) -> str:
    return class_name(description) if "index" in description else str(description.get("name"))


def changed_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a record's method, and its score, that are not at their defaults."""
    params = record.get("params", {})
    if record.get("method") not in METHODS.names:
        return dict(params)
    spec = METHODS.get(record["method"])
    defaults = {name: parameter.default for name, parameter in spec.parameters.items()}
    changed = {name: value for name, value in params.items() if name not in defaults or value != defaults[name]}
    if record.get("score", spec.score) != spec.score and "method" not in spec.parameters:
        changed["score"] = record["score"]
    return changed
