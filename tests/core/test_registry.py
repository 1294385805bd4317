"""The registry: reading signatures, parsing parameters, and errors that name value, rule and way out."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from xplain.core.errors import UsageError, did_you_mean
from xplain.core.parameters import Bounds, Fraction, Parameter, Positive, Steps
from xplain.core.registry import METHODS, METRICS, MethodSpec, Registry, Spec

Colour = Literal["black", "white", "blur"]


def toy(
    oracle,
    x,
    *,
    rng,
    against: str | None,
    count: Steps = 10,
    level: Fraction = 0.5,
    size: Positive = 1.0,
    flag: bool = False,
    colour: Colour = "black",
    layer: str = "auto",
    limit: Steps | None = None,
    tint: Colour | None = None,
    span: Annotated[int, Bounds(low=2, high=5)] = 3,
):
    """What it is. And more of it."""


SPEC = Spec("toy", toy, doc=toy.__doc__ or "")


def parse(name: str, value: object):
    return SPEC.parameters[name].parse(value, "toy")


def refusal(name: str, value: object) -> str:
    with pytest.raises(UsageError) as error:
        parse(name, value)
    assert error.value.exit_code == 2
    return str(error.value)


# ------------------------------------------------------------------------------------------------- signatures


def test_keywords_with_defaults_are_parameters_and_those_without_are_needs():
    assert list(SPEC.parameters) == [
        "count",
        "level",
        "size",
        "flag",
        "colour",
        "layer",
        "limit",
        "tint",
        "span",
    ]
    assert SPEC.needs == {"rng", "against"}


def test_a_parameter_is_read_from_its_annotation_and_default():
    assert SPEC.parameters["count"] == Parameter("count", int, 10, (), Bounds(low=1), False)
    assert SPEC.parameters["colour"] == Parameter("colour", str, "black", ("black", "white", "blur"), None, False)
    assert SPEC.parameters["limit"] == Parameter("limit", int, None, (), Bounds(low=1), True)
    assert SPEC.parameters["tint"] == Parameter("tint", str, None, ("black", "white", "blur"), None, True)


def test_what_is_accepted_is_said_in_words():
    accepts = {name: each.accepts for name, each in SPEC.parameters.items()}
    assert accepts == {
        "count": "a whole number from 1",
        "level": "a number from 0 to 1",
        "size": "a number over 0",
        "flag": "true or false",
        "colour": "black or white or blur",
        "layer": "text",
        "limit": "a whole number from 1 or none",
        "tint": "black or white or blur or none",
        "span": "a whole number from 2 to 5",
    }


def test_the_summary_is_the_first_sentence():
    assert SPEC.summary == "What it is."


# ------------------------------------------------------------------------------------------------- parsing


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
        ("colour", "blur", "blur"),
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
def test_text_and_python_values_become_the_parameters_type(name, value, expected):
    found = parse(name, value)
    assert found == expected
    assert type(found) is type(expected)


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
        ("colour", "Black"),
        ("colour", ""),
        ("colour", None),
        ("colour", 3),
        ("colour", ["black"]),
        ("layer", None),
        ("layer", True),
        ("limit", 0),
        ("tint", "None"),
        ("span", 1),
        ("span", "6"),
    ],
)
def test_values_outside_the_rule_are_refused_by_name_and_value(name, value):
    text = refusal(name, value)
    assert text.startswith(f"toy: {name}={value} is not accepted")
    assert "; " in text


def test_a_refusal_names_the_rule():
    assert refusal("count", "0") == "toy: count=0 is not accepted; give a whole number from 1"
    assert refusal("level", "2") == "toy: level=2 is not accepted; give a number from 0 to 1"
    assert refusal("flag", "maybe") == "toy: flag=maybe is not accepted; give true or false"
    assert refusal("limit", "x") == "toy: limit=x is not accepted; give a whole number from 1 or none"


def test_a_refused_choice_names_its_relatives_or_all_choices():
    assert refusal("colour", "blakc") == "toy: colour=blakc is not accepted; did you mean 'black'?"
    assert refusal("colour", "zzz") == "toy: colour=zzz is not accepted; give black or white or blur"


def test_resolving_fills_in_the_defaults():
    found = SPEC.resolve({"count": "3", "colour": "white"})
    assert found["count"] == 3
    assert found["colour"] == "white"
    assert found["level"] == 0.5
    assert found["limit"] is None
    assert list(found) == list(SPEC.parameters)


def test_an_unknown_parameter_names_its_relatives_or_all_parameters():
    with pytest.raises(UsageError) as error:
        SPEC.resolve({"cuont": 3})
    assert str(error.value) == "toy has no parameter 'cuont'; did you mean 'count'?"
    with pytest.raises(UsageError) as error:
        SPEC.resolve({"zzz": 3})
    assert str(error.value) == (
        "toy has no parameter 'zzz'; its parameters are: count, level, size, flag, colour, layer, limit, tint, span"
    )


def test_what_the_engine_hands_over_is_no_parameter():
    with pytest.raises(UsageError, match="no parameter 'rng'"):
        SPEC.resolve({"rng": 1})


# ------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (Bounds(low=1), (1, 2, 1e9), (0, 0.999, -5), "from 1"),
        (Bounds(low=0, high=1), (0, 0.5, 1), (-1e-9, 1.0001), "from 0 to 1"),
        (Bounds(above=0), (1e-300, 3), (0, -1), "over 0"),
        (Bounds(above=0, high=2), (0.1, 2), (0, 2.1), "over 0 to 2"),
        (Bounds(high=4), (-9, 4), (4.5,), "to 4"),
        (Bounds(), (-1e9, 1e9), (), ""),
    ],
)
def test_bounds_admit_what_they_say(bounds, inside, outside, text):
    assert all(bounds.accepts(each) for each in inside)
    assert not any(bounds.accepts(each) for each in outside)
    assert str(bounds) == text


# ------------------------------------------------------------------------------------------------- names


def registry() -> Registry[Spec]:
    found: Registry[Spec] = Registry("method")
    found.add(Spec("integrated-gradients", toy, alias="ig"))
    found.add(Spec("saliency", toy))
    return found


def test_a_name_or_an_alias_gives_the_spec():
    known = registry()
    assert known.get("ig") is known.get("integrated-gradients")
    assert [each.name for each in known] == ["integrated-gradients", "saliency"]


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("integrated-gradient", "did you mean 'integrated-gradients'?"),
        ("Saliency", "did you mean 'saliency'?"),
        ("IG", "did you mean 'ig'?"),
        ("zzzzz", "see xplain list methods"),
        ("", "see xplain list methods"),
    ],
)
def test_an_unknown_name_names_its_relatives_or_the_list(name, way_out):
    with pytest.raises(UsageError) as error:
        registry().get(name)
    assert str(error.value) == f"unknown method {name!r}; {way_out}"


@pytest.mark.parametrize(("name", "alias"), [("saliency", ""), ("ig", ""), ("new", "ig"), ("new", "saliency")])
def test_a_taken_name_is_a_bug(name, alias):
    with pytest.raises(ValueError, match="registered twice"):
        registry().add(Spec(name, toy, alias=alias))


def test_nearest_relatives_come_in_their_own_spelling():
    assert did_you_mean("RESNET5O", ["ResNet50", "vgg19"]) == "did you mean 'ResNet50'?"
    assert did_you_mean("xyz", ["resnet50"], "see the list") == "see the list"
    assert did_you_mean("xyz", ["resnet50"]) == ""


def test_the_readme_example_of_a_wrong_method_holds():
    import xplain.methods  # noqa: F401  (registers them)

    with pytest.raises(UsageError) as error:
        METHODS.get("agii")
    assert str(error.value) == "unknown method 'agii'; did you mean 'agi'?"


def test_every_default_of_every_registered_function_obeys_its_own_rule():
    import xplain.methods
    import xplain.metrics  # noqa: F401

    specs = [*METHODS, *METRICS]
    assert len(specs) > 10
    for spec in specs:
        for each in spec.parameters.values():
            assert each.parse(each.default, spec.name) == each.default
            text = "none" if each.default is None else str(each.default)
            assert each.parse(text, spec.name) == each.default


def test_the_claimed_cost_is_a_pair_for_the_default_parameters():
    import xplain.methods  # noqa: F401

    spec = METHODS.get("ig")
    assert isinstance(spec, MethodSpec)
    assert spec.cost(**spec.resolve({})) == (50, 50)
    assert spec.cost(**spec.resolve({"steps": "7"})) == (7, 7)
    assert METHODS.get("saliency").cost(**METHODS.get("saliency").resolve({})) == (1, 1)
