"""Every method on the kinds of output: models that mean the same have the same maps, and no map is zero without a warning."""

from functools import lru_cache

import pytest
import torch
from torch import nn

import xplain
from tests.contracts import quick
from tests.contracts.test_methods import ATTENTION_METHODS, CONTROLS, SPECS
from tests.helpers import toys
from tests.helpers.output_kinds import with_heads, with_output
from xplain.core.errors import UsageError
from xplain.core.registry import MethodSpec

X = toys.images(3)
TARGETS = [0, 1, 1]
FOLLOWS_TARGET = [spec for spec in SPECS if spec.name not in CONTROLS | {"xrai"}]  # xrai is slow, and made of IG
BY_RULES = {
    "lrp",
    "deep-taylor",
}  # their rules depend on the sign of a weight, so that a contrast is not a difference of logits
SCORES = ("prob", "log-prob", "margin")

every_method = pytest.mark.parametrize("spec", FOLLOWS_TARGET, ids=lambda spec: spec.name)


@lru_cache
def network(has_attention: bool, negated: bool = False) -> nn.Module:
    """Return a network with one logit, which is near 0 for some images and has both signs."""
    if has_attention:
        net = toys.token_net(1, classes=1)
    else:
        net = toys.small_net(1, scale=3.0, classes=1)
        net.pool = nn.AvgPool2d(2)
    with torch.no_grad():
        net.head.bias -= net(X).median()
        if negated:
            net.head.weight.neg_()
            net.head.bias.neg_()
    return net


@lru_cache
def model(has_attention: bool, activation: str, negated: bool = False) -> xplain.Classifier:
    """Return (-z, z) with a sigmoid, or (-z/2, z/2) with a softmax, which have the same probabilities."""
    net = network(has_attention, negated)
    return with_output(with_heads(net, 1.0 if activation == "binary" else 0.5), activation, 2)


def explain(spec: MethodSpec, activation: str, *, negated: bool = False, **options) -> xplain.Attribution:
    classifier = model(spec.name in ATTENTION_METHODS, activation, negated)
    options = {"target": TARGETS} | options
    return xplain.attribute(classifier, X, spec.name, **options, **quick(spec))


@lru_cache
def explain_twin(spec: MethodSpec, score: str) -> xplain.Attribution | None:
    """Return the attribution of the softmax; None if the method does not take the score, as propagation methods."""
    try:
        return explain(spec, "softmax", score=score)
    except UsageError as error:
        if "is not defined for score" in str(error):
            return None
        raise


@pytest.mark.parametrize("score", SCORES)
@every_method
def test_binary_model_equals_its_softmax_twin(spec, score):
    if spec.name in BY_RULES and score == "margin":
        return
    twin = explain_twin(spec, score)
    if twin is None:
        with pytest.raises(UsageError, match="is not defined for score"):
            explain(spec, "binary", score=score)
        return
    actual = explain(spec, "binary", score=score)
    toys.assert_same(actual.values, twin.values, rtol=1e-8)
    assert {text: mask.tolist() for text, mask in actual.flags.items()} == {
        text: mask.tolist() for text, mask in twin.flags.items()
    }


@every_method
def test_binary_logit_is_twice_that_of_the_twin_and_that_of_its_contrast(spec):
    if spec.name in {"agi", "la"} | BY_RULES:  # agi and la take contrast classes as false classes
        return
    scaled = spec.name in ("saliency", "integrated-gradients", "occlusion", "input-x-gradient", "grad-cam", "lime")
    actual = explain(spec, "binary", score="logit")
    against = [[1 - target] for target in TARGETS]
    toys.assert_same(explain(spec, "binary", score="logit", against=against).values, actual.values)
    toys.assert_same(explain(spec, "softmax", score="logit", against=against).values, actual.values, rtol=1e-6)
    if scaled:
        toys.assert_same(2 * explain(spec, "softmax", score="logit").values, actual.values, rtol=1e-6)


@every_method
def test_negated_logit_swaps_the_classes(spec):
    swapped = explain(spec, "binary", negated=True, target=[1 - target for target in TARGETS])
    assert torch.equal(explain(spec, "binary").values, swapped.values)


@every_method
def test_zero_maps_have_a_warning(spec):
    """The probability is saturated: raw is about 1e4."""
    net = with_heads(network(spec.name in ATTENTION_METHODS), 1.0)
    net.head.weight.data *= 1e5
    result = xplain.attribute(with_output(net, "binary", 2), X, spec.name, target=TARGETS, **quick(spec))
    is_zero = (result.values == 0).flatten(1).all(dim=1)
    is_flagged = torch.stack(list(result.flags.values())).any(dim=0)
    assert not bool((is_zero & ~is_flagged).any())
    if spec.score == "prob" and spec.name in ("neflag", "mfaba"):
        saturated = result.flags["the probability is saturated, and its gradient is 0; use the score logit"]
        assert saturated.tolist() == is_zero.tolist()
        assert saturated.any()
