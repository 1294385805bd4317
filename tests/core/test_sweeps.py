"""Tests of xplain.core.sweeps."""

from __future__ import annotations

import pytest

import xplain
from xplain.core.config import Choice
from xplain.core.errors import UsageError
from xplain.core.sweeps import parse_choices, parse_methods, parse_single


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("agi", ["agi"]),
        ("agi:steps=3", ["agi:steps=3"]),
        ("neflag:radius=0.05|0.1 | 0.2", ["neflag:radius=0.05", "neflag:radius=0.1", "neflag:radius=0.2"]),
        ("ig:steps=5|9,rule=left", ["ig:steps=5,rule=left", "ig:steps=9,rule=left"]),
        ("a:b=1|2,c=x|y", ["a:b=1,c=x", "a:b=1,c=y", "a:b=2,c=x", "a:b=2,c=y"]),
        ("smooth:method=ig|sm", ["smooth:method=ig", "smooth:method=sm"]),
        (
            "smooth:method=ig:steps=5|9+rule=left,samples=3",
            ["smooth:method=ig:steps=5+rule=left,samples=3", "smooth:method=ig:steps=9+rule=left,samples=3"],
        ),
    ],
)
def test_sweep_gives_one_method_per_value(text, methods):
    assert parse_methods(text) == xplain.parse_methods([text]) == methods
    assert parse_choices(["sm", text]) == (Choice("sm"), *map(Choice.parse, methods))


def test_value_that_is_an_existing_path_is_not_split(tmp_path):
    path = tmp_path / "a|b.png"
    path.touch()
    assert parse_methods(f"ig:baseline={path}") == [f"ig:baseline={path}"]
    assert parse_methods(f"ig:baseline={path}x") == [f"ig:baseline={tmp_path}/a", "ig:baseline=b.pngx"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ig:steps=5|", "a value is missing in '5|' of 'ig:steps=5|'; use key=value|value"),
        ("ig:steps|rule", "invalid parameter 'steps|rule' in 'ig:steps|rule'; use NAME:key=value,key=value"),
        (
            "a:" + ",".join(f"p{k}=1|2" for k in range(10)),
            "'a:p0=1|2,p1=1|2,p2=1|2,p3=1|2,p4=1|2,p5=1|2,p6=1|2,p7=1|2,p8=1|2,p9=1|2' stands for more than 1000 methods; "
            "use fewer values",
        ),
    ],
)
def test_invalid_sweep_is_refused(text, message):
    with pytest.raises(UsageError) as error:
        parse_methods(text)
    assert str(error.value) == message


def test_single_method_refuses_a_sweep():
    assert parse_single("ig:steps=5") == Choice("ig", (("steps", "5"),))
    with pytest.raises(UsageError) as error:
        parse_single("ig:steps=5|9")
    assert str(error.value) == "'ig:steps=5|9' stands for 2 methods; pass one of the texts of xplain.parse_methods"
