"""Tests of xplain.core.registry."""

from __future__ import annotations

import pytest

from tests.helpers.example_method import example
from xplain.core.errors import UsageError
from xplain.core.option_words import option_names
from xplain.core.registry import METHODS, METRICS, MethodSpec, Registry, Spec

SPEC = Spec("example", example, doc=example.__doc__ or "")


def test_spec_splits_parameters_and_needs():
    assert list(SPEC.parameters) == [
        "count",
        "level",
        "size",
        "flag",
        "color",
        "layer",
        "limit",
        "tint",
        "span",
    ]
    assert SPEC.needs == {"rng", "against"}


def test_summary_is_first_sentence():
    assert SPEC.summary == "Explain the image."


def test_resolve_fills_in_defaults():
    settings = SPEC.resolve({"count": "3", "color": "white"})
    assert settings["count"] == 3
    assert settings["color"] == "white"
    assert settings["level"] == 0.5
    assert settings["limit"] is None
    assert list(settings) == list(SPEC.parameters)


def test_resolve_rejects_unknown_parameter():
    with pytest.raises(UsageError) as error:
        SPEC.resolve({"cuont": 3})
    assert str(error.value) == "example has no parameter 'cuont'; did you mean 'count'?"
    with pytest.raises(UsageError) as error:
        SPEC.resolve({"zzz": 3})
    assert str(error.value) == (
        "example has no parameter 'zzz'; use count or level or size or flag or color or layer or limit or tint or span"
    )


def test_resolve_rejects_needs():
    with pytest.raises(UsageError, match="no parameter 'rng'"):
        SPEC.resolve({"rng": 1})


def make_registry() -> Registry[Spec]:
    registry: Registry[Spec] = Registry("method")
    registry.add(Spec("integrated-gradients", example, alias="ig"))
    registry.add(Spec("saliency", example))
    return registry


def test_get_by_name_or_alias():
    registry = make_registry()
    assert registry.get("ig") is registry.get("integrated-gradients")
    assert [spec.name for spec in registry] == ["integrated-gradients", "saliency"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("integrated-gradient", "did you mean 'integrated-gradients'?"),
        ("Saliency", "did you mean 'saliency'?"),
        ("IG", "did you mean 'ig'?"),
        ("zzzzz", "see xplain list methods"),
        ("", "see xplain list methods"),
        ("saliency,ig", "repeat -a: -a saliency -a ig"),
    ],
)
def test_get_unknown_name_raises(name, hint):
    with pytest.raises(UsageError) as error:
        make_registry().get(name)
    assert str(error.value) == f"unknown method {name!r}; {hint}"


def test_several_names_in_one_text_raise():
    with pytest.raises(UsageError, match="unknown metric 'insertion, deletion'; repeat -M: -M insertion -M deletion"):
        METRICS.get("insertion, deletion")
    with (
        option_names(False),
        pytest.raises(UsageError, match=r"; pass one name, or a list of names to xplain\.evaluate"),
    ):
        make_registry().get("saliency,ig")


@pytest.mark.parametrize(("name", "alias"), [("saliency", ""), ("ig", ""), ("new", "ig"), ("new", "saliency")])
def test_add_taken_name_raises(name, alias):
    with pytest.raises(ValueError, match="already registered"):
        make_registry().add(Spec(name, example, alias=alias))


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("gradcam", "grad-cam"),
        ("gradcam++", "grad-cam-plus-plus"),
        ("grad-cam++", "grad-cam-plus-plus"),
        ("scorecam", "score-cam"),
        ("layercam", "layer-cam"),
        ("eigencam", "eigen-cam"),
        ("integrated_gradients", "integrated-gradients"),
        ("smooth-grad", "smoothgrad"),
        ("gradientshap", "expected-gradients"),
        ("kernelshap", "kernel-shap"),
        ("guidedbackprop", "guided-backprop"),
    ],
)
def test_methods_are_found_without_hyphens(name, registered):
    import xplain.methods  # noqa: F401  (registers the methods)

    assert METHODS.get(name).name == registered


def test_spellings_without_hyphens_are_unique():
    import xplain.methods
    import xplain.metrics  # noqa: F401  (registers the metrics)

    for registry in (METHODS, METRICS):
        for spec in registry:
            for name in spec.names:
                assert registry.get(name.replace("-", "")) is spec


def test_name_of_a_family_lists_its_methods():
    import xplain.methods  # noqa: F401  (registers the methods)

    with pytest.raises(UsageError) as error:
        METHODS.get("shap")
    assert str(error.value) == "unknown method 'shap'; use kernel-shap, gradient-shap or deep-shap"


def test_readme_example_of_unknown_method():
    import xplain.methods  # noqa: F401  (registers the methods)

    with pytest.raises(UsageError) as error:
        METHODS.get("agii")
    assert str(error.value) == "unknown method 'agii'; did you mean 'agi'?"


def test_every_registered_default_is_accepted():
    import xplain.methods
    import xplain.metrics  # noqa: F401

    specs = [*METHODS, *METRICS]
    assert len(specs) > 10
    for spec in specs:
        for parameter in spec.parameters.values():
            assert parameter.parse(parameter.default, spec.name) == parameter.default
            text = "none" if parameter.default is None else str(parameter.default)
            assert parameter.parse(text, spec.name) == parameter.default


def test_cost_of_default_parameters():
    import xplain.methods  # noqa: F401

    spec = METHODS.get("ig")
    assert isinstance(spec, MethodSpec)
    assert spec.cost(**spec.resolve({})) == (50, 50)
    assert spec.cost(**spec.resolve({"steps": "7"})) == (7, 7)
    assert METHODS.get("saliency").cost(**METHODS.get("saliency").resolve({})) == (1, 1)
