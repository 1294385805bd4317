"""Captions of figures: settings that differ from the defaults, and lines that keep the names of classes whole."""

from __future__ import annotations

import xplain.methods  # noqa: F401  (declares the names of the methods)
from xplain.core.registry import METHODS
from xplain.reports.captions import caption, changed_settings, wrap_caption

NAME = "black-and-tan coonhound"


def make_record(method: str, **changed: object) -> dict:
    """Return the record of a method with all its parameters."""
    spec = METHODS.get(method)
    defaults = {name: parameter.default for name, parameter in spec.parameters.items()}
    return {
        "method": method,
        "params": defaults | changed,
        "score": spec.score,
        "target": {"index": 165, "name": NAME, "probability": 0.5},
    }


def test_caption_shows_only_what_differs_from_the_defaults():
    for spec in METHODS:
        assert changed_settings(make_record(spec.name)) == {}
    assert caption(make_record("agi")) == f"agi for “{NAME}”"
    record = make_record("agi", steps=10, variant="paper")
    assert caption(record) == f"agi (variant=paper, steps=10) for “{NAME}”"
    assert caption(record | {"score": "margin"}) == f"agi (variant=paper, steps=10, score=margin) for “{NAME}”"
    assert caption({"method": "plugin", "params": {"a": 1}, "target": {"name": None, "index": 3}}) == (
        "plugin (a=1) for “class 3”"
    )


def test_lines_do_not_break_names_of_classes():
    record = make_record("agi", steps=10, step_size=0.5, variant="paper")
    for width in range(25, 80):
        lines = wrap_caption(record, width).split("\n")
        assert max(map(len, lines)) <= width
        assert sum(f"“{NAME}”" in line for line in lines) == 1
        assert " ".join(lines) == caption(record)
    assert wrap_caption(record, 12).split("\n")[-1] == "“black-and-…"


def test_control_characters_are_escaped():
    record = make_record("agi") | {"target": {"index": 0, "name": "a\nb", "probability": 1.0}}
    assert wrap_caption(record, 80) == "agi for “a\\nb”"
