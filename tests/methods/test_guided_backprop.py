"""Guided backpropagation and deconvnet: truth table, literal reference, captum, other ways to write a ReLU, refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import family, photos
from tests.reference import propagation
from xplain.core.errors import UsageError

KINDS = {"guided-backprop": "guided", "deconvnet": "deconvnet"}
both = pytest.mark.parametrize("name", list(KINDS))


@pytest.mark.parametrize(
    ("name", "a", "signal", "expected"),
    [
        ("guided-backprop", 0.5, 2.0, 2.0),
        ("guided-backprop", 0.5, -2.0, 0.0),
        ("guided-backprop", -0.5, 2.0, 0.0),
        ("guided-backprop", -0.5, -2.0, 0.0),
        ("deconvnet", 0.5, 2.0, 2.0),
        ("deconvnet", 0.5, -2.0, 0.0),
        ("deconvnet", -0.5, 2.0, 2.0),
        ("deconvnet", -0.5, -2.0, 0.0),
    ],
)
def test_truth_table_of_one_rectifier(name, a, signal, expected):
    assert chains.explain(name, lambda v: signal * torch.relu(v), a) == [expected]


@both
def test_equals_the_literal_reference(name):
    layers, x = chains.chain(), chains.images()
    values = xplain.attribute(chains.as_classifier(layers), x, name, target=1).values
    for image, found in zip(x, values, strict=True):
        expected = propagation.gated(layers, image.flatten().numpy(), 1, KINDS[name])
        toys.assert_same(found.flatten(), torch.from_numpy(expected))


@both
def test_is_the_gradient_without_rectifiers(name):
    made = toys.classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3)).double())
    x = toys.images()
    toys.assert_same(xplain.attribute(made, x, name).values, xplain.attribute(made, x, "saliency").values)


def test_is_not_invariant_to_the_implementation():
    """f(x) = -x as ReLU(-x) - ReLU(x): 0 at x > 0, where the plain network gives -1."""
    assert chains.explain("gbp", lambda v: -v, 0.5) == [-1.0]
    assert chains.explain("gbp", lambda v: torch.relu(-v) - torch.relu(v), 0.5) == [0.0]


WAYS = {
    "F.relu": F.relu,
    "in place": lambda v: F.relu(v * 1, inplace=True),
    "torch.relu_": lambda v: torch.relu_(v * 1),
    "method": lambda v: v.relu(),
    "clamp": lambda v: v.clamp(min=0),
    "clamp_min": lambda v: v.clamp_min(0),
    "module": nn.ReLU(inplace=True),
    "relu6": F.relu6,
    "hardtanh": lambda v: F.hardtanh(v, 0.0, 6.0),
}


@both
@pytest.mark.parametrize("way", list(WAYS))
def test_a_rectifier_is_seen_however_it_is_written(name, way):
    """2 ReLU(v) - 3 ReLU(w): the signal -3 is stopped."""
    rectify = WAYS[way]
    assert chains.explain(name, lambda v, w: 2 * rectify(v) - 3 * rectify(w), 0.5, 0.7) == [2.0, 0.0]


@both
def test_residual_additions_in_place_are_followed(name):
    def residual(v: torch.Tensor) -> torch.Tensor:
        out = torch.relu(-v)
        out += 2 * v
        return out

    expected = {"guided-backprop": 2.0, "deconvnet": 1.0}[name]
    assert chains.explain(name, residual, 0.5) == [expected]


@both
def test_agrees_with_captum_on_vgg(name):
    attr = pytest.importorskip("captum.attr")
    made, x = copy.deepcopy(family("vgg11")).double(), photos("vgg11", 1).double()
    theirs = {"guided-backprop": attr.GuidedBackprop, "deconvnet": attr.Deconvolution}[name](made)
    toys.assert_same(
        xplain.attribute(made, x, name, target=7).values, theirs.attribute(x, target=7).detach(), rtol=1e-6
    )


@both
@pytest.mark.parametrize("model", ["resnet18", "googlenet", "mobilenet_v2"])
def test_differs_from_the_gradient_on_models_with_functional_or_shared_rectifiers(name, model):
    made, x = family(model), photos(model)
    values = xplain.attribute(made, x, name, target=7).values
    assert values.isfinite().all()
    plain = xplain.attribute(made, x, "saliency", target=7).values
    assert float(torch.corrcoef(torch.stack([values.flatten(), plain.flatten()]))[0, 1]) < 0.9


@both
@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda v: F.silu(v), "silu"),
        (lambda v: F.hardswish(v), "hardswish"),
        (lambda v: v * torch.sigmoid(v), "sigmoid"),
        (lambda v: torch.special.erf(v), "special_erf"),
        (lambda v: torch.logcumsumexp(v, 0), "logcumsumexp"),
    ],
)
def test_refuses_what_it_has_no_rule_for(name, function, what):
    with pytest.raises(UsageError, match=f"{name} has no rule for {what} in .*use"):
        chains.explain(name, function, 0.5)


def test_a_refusal_names_the_module():
    net = toys.small_net(activation=nn.SiLU)
    with pytest.raises(UsageError, match="guided-backprop has no rule for silu in act1; use deeplift, fullgrad"):
        xplain.attribute(toys.classifier(net), toys.images(), "gbp")


def test_code_that_cannot_be_seen_is_refused():
    with pytest.raises(UsageError, match="cannot see into compiled or custom code"):
        chains.explain("gbp", lambda v: toys.Hidden.apply(v) * 2, 0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()).double().requires_grad_(False)
    scripted = torch.jit.script(net)
    with pytest.raises(UsageError, match="cannot see into compiled or custom code"):
        xplain.attribute(toys.classifier(scripted), chains.images(), "gbp")


def test_a_forward_that_relies_on_writing_in_place_is_refused():
    def sneaky(v: torch.Tensor) -> torch.Tensor:
        other = v * 1
        other.relu_()
        return other

    with pytest.raises(UsageError, match="cannot follow the model's forward"):
        chains.explain("gbp", sneaky, -0.5)
    with pytest.raises(UsageError, match="has no rule for index_fill_"):
        chains.explain("gbp", lambda v: v.clone().index_fill_(0, torch.tensor([0]), 0.0), 0.5)
