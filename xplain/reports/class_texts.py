"""Texts about the classes of a prediction: names, and probabilities or values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def class_name(description: Mapping[str, Any]) -> str:
    """Return a class's name, or ``class INDEX`` if it has none; ``output INDEX`` if the model returns values."""
    kind = "class" if description.get("probability") is not None or "value" not in description else "output"
    return str(description["name"] or f"{kind} {description['index']}")


def format_certainty(description: Mapping[str, Any], digits: int = 2) -> str:
    """Return the probability of a class, or its value if the model has no probabilities."""
    probability = description["probability"]
    return f"{description['value']:.4g}" if probability is None else f"{probability:.{digits}f}"
