"""The score ``contrast`` of every method: the map of a network whose target is the contrast, and of the clean image's classes."""

from __future__ import annotations

import copy

import pytest
import torch

import xplain
from tests.contracts import quick
from tests.contracts.test_methods import (
    ATTENTION_METHODS,
    CONTROLS,
    SPECS,
    TARGET_INDEPENDENT,
    X,
    make_classifier,
    network,
)
from tests.contracts.test_output_scores import BY_RULES
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS, MethodSpec

IMAGE = X[1:2]
TARGET = 3
SLOW = {"xrai"}  # made of integrated gradients
FALSE_CLASSES = {"agi", "la"}
METHODS_TO_TRY = [spec for spec in SPECS if spec.name not in CONTROLS | SLOW | FALSE_CLASSES]

every_method = pytest.mark.parametrize("spec", METHODS_TO_TRY, ids=lambda spec: spec.name)


def explain(spec: MethodSpec, score: str, classifier: xplain.Classifier | None = None, **options) -> xplain.Attribution:
    classifier = classifier or make_classifier(spec.name in ATTENTION_METHODS)[0]
    options = {"target": TARGET} | options
    return xplain.attribute(classifier, IMAGE, spec.name, score=score, **quick(spec), **options)


def nearest_classes(spec: MethodSpec, count: int) -> list[int]:
    logits = make_classifier(spec.name in ATTENTION_METHODS)[1](IMAGE)[0].tolist()
    others = [index for index in range(len(logits)) if index != TARGET]
    return sorted(others, key=lambda index: abs(logits[index] - logits[TARGET]))[:count]


@every_method
def test_contrast_is_the_logit_of_a_changed_head(spec):
    """A linear head whose row t is w_t - 0.6 mean w_i. LRP distributes the terms on their own, by the signs of their weights."""
    contrasts = nearest_classes(spec, 2)
    changed = copy.deepcopy(network(spec))
    for tensor in (changed.head.weight.data, changed.head.bias.data):
        tensor[TARGET] = tensor[TARGET] - 0.6 * tensor[contrasts].mean(dim=0)
    actual = explain(spec, "contrast:classes=2")
    assert actual.details["contrasts"].tolist() == [contrasts]
    if spec.name not in BY_RULES:
        expected = explain(spec, "logit", toys.with_pixels(changed)[0])
        toys.assert_same(actual.values, expected.values, rtol=1e-7)
    assert bool(actual.values.any())
    if spec.name not in TARGET_INDEPENDENT:
        assert not torch.equal(actual.values, explain(spec, "logit").values)


@every_method
def test_contrast_of_gamma_0_is_the_logit(spec):
    expected = explain(spec, "logit").values
    toys.assert_same(explain(spec, "contrast:gamma=0").values, expected)


@every_method
def test_contrast_of_gamma_1_is_against_the_nearest(spec):
    contrasts = nearest_classes(spec, 3)
    expected = explain(spec, "logit", against=contrasts).values
    toys.assert_same(explain(spec, "contrast:gamma=1").values, expected)
    named = explain(spec, "contrast:gamma=1", against=contrasts)
    assert torch.equal(named.values, explain(spec, "contrast:gamma=1").values)
    assert named.details["contrasts"].tolist() == [contrasts]


@pytest.mark.parametrize("name", sorted(FALSE_CLASSES))
def test_methods_with_false_classes_refuse_it(name):
    for against in (None, [1]):
        with pytest.raises(UsageError) as error:
            explain(METHODS.get(name), "contrast", against=against)
        assert str(error.value) == (
            f"{name} is not defined for score=contrast, because it compares with false classes itself; choose them with against, and "
            "use another score"
        )
