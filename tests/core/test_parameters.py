"""Tests of xplain.core.parameters."""

from __future__ import annotations

import pytest

from tests.helpers.example_method import example
from xplain.core.errors import UsageError
from xplain.core.parameters import Bounds, Parameter
from xplain.core.registry import Spec

PARAMETERS = Spec("example", example).parameters


def parse(name: str, value: object):
    return PARAMETERS[name].parse(value, "example")


def parse_error(name: str, value: object) -> str:
    with pytest.raises(UsageError) as error:
        parse(name, value)
    assert error.value.exit_code == 2
    return str(error.value)


def test_read_parameter_from_signature():
    assert PARAMETERS["count"] == Parameter("count", int, 10, (), Bounds(low=1), False)
    assert PARAMETERS["color"] == Parameter("color", str, "black", ("black", "white", "blur"), None, False)
    assert PARAMETERS["limit"] == Parameter("limit", int, None, (), Bounds(low=1), True)
    assert PARAMETERS["tint"] == Parameter("tint", str, None, ("black", "white", "blur"), None, True)


def test_accepted_values_description():
    descriptions = {name: parameter.accepted_values for name, parameter in PARAMETERS.items()}
    assert descriptions == {
        "count": "an integer >= 1",
        "level": "a number between 0 and 1",
        "size": "a number > 0",
        "flag": "true or false",
        "color": "black or white or blur",
        "layer": "text",
        "limit": "an integer >= 1 or none",
        "tint": "black or white or blur or none",
        "span": "an integer between 2 and 5",
    }


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "7", 7),
        ("count", 7, 7),
        ("count", "1", 1),
        ("level", "0.25", 0.25),
        ("level", "1e-3", 0.001),
        ("level", 0, 0.0),
        ("level", 1, 1.0),
        ("size", "2", 2.0),
        ("flag", "true", True),
        ("flag", "False", False),
        ("flag", True, True),
        ("color", "blur", "blur"),
        ("layer", "layer4.1", "layer4.1"),
        ("limit", "none", None),
        ("limit", None, None),
        ("limit", "3", 3),
        ("tint", "none", None),
        ("tint", "white", "white"),
        ("span", 2, 2),
        ("span", "5", 5),
    ],
)
def test_parse_converts_value(name, value, expected):
    parsed = parse(name, value)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "0"),
        ("count", -3),
        ("count", "2.5"),
        ("count", 2.0),
        ("count", "ten"),
        ("count", ""),
        ("count", True),
        ("count", None),
        ("count", "none"),
        ("count", [1]),
        ("level", "1.01"),
        ("level", -0.1),
        ("level", "nan"),
        ("level", float("nan")),
        ("level", "inf"),
        ("level", True),
        ("size", 0),
        ("size", "-1"),
        ("size", "inf"),
        ("size", float("inf")),
        ("flag", "yes"),
        ("flag", 1),
        ("flag", None),
        ("color", "Black"),
        ("color", ""),
        ("color", None),
        ("color", 3),
        ("color", ["black"]),
        ("layer", None),
        ("layer", True),
        ("limit", 0),
        ("tint", "None"),
        ("span", 1),
        ("span", "6"),
    ],
)
def test_parse_rejects_invalid_value(name, value):
    text = parse_error(name, value)
    assert text.startswith(f"example: invalid value {name}={value}")
    assert "; " in text


def test_parse_error_names_accepted_values():
    assert parse_error("count", "0") == "example: invalid value count=0; use an integer >= 1"
    assert parse_error("level", "2") == "example: invalid value level=2; use a number between 0 and 1"
    assert parse_error("flag", "maybe") == "example: invalid value flag=maybe; use true or false"
    assert parse_error("limit", "x") == "example: invalid value limit=x; use an integer >= 1 or none"


def test_parse_error_suggests_similar_choice():
    assert parse_error("color", "blakc") == "example: invalid value color=blakc; did you mean 'black'?"
    assert parse_error("color", "zzz") == "example: invalid value color=zzz; use black or white or blur"


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (Bounds(low=1), (1, 2, 1e9), (0, 0.999, -5), ">= 1"),
        (Bounds(low=0, high=1), (0, 0.5, 1), (-1e-9, 1.0001), "between 0 and 1"),
        (Bounds(above=0), (1e-300, 3), (0, -1), "> 0"),
        (Bounds(above=0, high=2), (0.1, 2), (0, 2.1), "> 0 and <= 2"),
        (Bounds(high=4), (-9, 4), (4.5,), "<= 4"),
        (Bounds(), (-1e9, 1e9), (), ""),
    ],
)
def test_bounds_accept_values_inside(bounds, inside, outside, text):
    assert all(bounds.accepts(value) for value in inside)
    assert not any(bounds.accepts(value) for value in outside)
    assert str(bounds) == text
