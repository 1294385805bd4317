"""Guided backpropagation and deconvnet: truth table, literal reference, captum, variants of ReLU, refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import smooth_images, torchvision_classifier
from tests.reference import propagation
from xplain.core.errors import UsageError

KINDS = {"guided-backprop": "guided", "deconvnet": "deconvnet"}
both_methods = pytest.mark.parametrize("name", list(KINDS))


@pytest.mark.parametrize(
    ("name", "a", "gradient", "expected"),
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
def test_single_relu_follows_truth_table(name, a, gradient, expected):
    assert chains.explain(name, lambda v: gradient * torch.relu(v), a) == [expected]


@both_methods
def test_method_equals_literal_reference(name):
    layers, x = chains.chain(), chains.images()
    values = xplain.attribute(chains.as_classifier(layers), x, name, target=1).values
    for image, value in zip(x, values, strict=True):
        expected = propagation.gated_gradient(layers, image.flatten().numpy(), 1, KINDS[name])
        toys.assert_same(value.flatten(), torch.from_numpy(expected))


@both_methods
def test_network_without_relus_gives_gradient(name):
    classifier = toys.classifier(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3)).double()
    )
    x = toys.images()
    toys.assert_same(xplain.attribute(classifier, x, name).values, xplain.attribute(classifier, x, "saliency").values)


def test_equivalent_networks_differ():
    """f(x) = -x as ReLU(-x) - ReLU(x): 0 at x > 0; without ReLUs -1."""
    assert chains.explain("gbp", lambda v: -v, 0.5) == [-1.0]
    assert chains.explain("gbp", lambda v: torch.relu(-v) - torch.relu(v), 0.5) == [0.0]


RELUS = {
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


@both_methods
@pytest.mark.parametrize("variant", list(RELUS))
def test_all_relu_variants_are_recognized(name, variant):
    """2 ReLU(v) - 3 ReLU(w): the gradient -3 becomes zero."""
    rectify = RELUS[variant]
    assert chains.explain(name, lambda v, w: 2 * rectify(v) - 3 * rectify(w), 0.5, 0.7) == [2.0, 0.0]


@both_methods
def test_in_place_addition_is_followed(name):
    def residual(v: torch.Tensor) -> torch.Tensor:
        out = torch.relu(-v)
        out += 2 * v
        return out

    expected = {"guided-backprop": 2.0, "deconvnet": 1.0}[name]
    assert chains.explain(name, residual, 0.5) == [expected]


@both_methods
def test_vgg_agrees_with_captum(name):
    attr = pytest.importorskip("captum.attr")
    classifier, x = copy.deepcopy(torchvision_classifier("vgg11")).double(), smooth_images("vgg11", 1).double()
    theirs = {"guided-backprop": attr.GuidedBackprop, "deconvnet": attr.Deconvolution}[name](classifier)
    toys.assert_same(
        xplain.attribute(classifier, x, name, target=7).values, theirs.attribute(x, target=7).detach(), rtol=1e-6
    )


@both_methods
@pytest.mark.parametrize("model", ["resnet18", "googlenet", "mobilenet_v2"])
def test_functional_and_shared_relus_are_found(name, model):
    classifier, x = torchvision_classifier(model), smooth_images(model)
    values = xplain.attribute(classifier, x, name, target=7).values
    assert values.isfinite().all()
    plain = xplain.attribute(classifier, x, "saliency", target=7).values
    assert float(torch.corrcoef(torch.stack([values.flatten(), plain.flatten()]))[0, 1]) < 0.9


@both_methods
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda v: torch.special.erf(v), "special_erf"),
        (lambda v: torch.logcumsumexp(v, 0), "logcumsumexp"),
    ],
)
def test_operations_without_rule_are_refused(name, function, operation):
    with pytest.raises(UsageError, match=f"{name} has no rule for {operation} in .*use"):
        chains.explain(name, function, 0.5)


class Erf(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.erf(x)


def test_refusal_names_module():
    net = toys.small_net(activation=Erf)
    with pytest.raises(UsageError, match="guided-backprop has no rule for special_erf in act1; use "):
        xplain.attribute(toys.classifier(net), toys.images(), "gbp")


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.hardswish, F.elu, F.mish, F.softplus])
def test_smooth_rectifiers_clamp_gradients(function):
    """2 h(v) - 3 h(w): guided backpropagation gives 2 h'(v) and 0, deconvnet 2 and 0."""
    v = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(v), v)
    net = lambda v, w: 2 * function(v) - 3 * function(w)  # noqa: E731
    assert chains.explain("guided-backprop", net, 0.5, 0.7) == pytest.approx([2 * float(slope), 0.0], rel=1e-12)
    assert chains.explain("deconvnet", net, 0.5, 0.7) == [2.0, 0.0]


@both_methods
@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        torch.tanh,
        lambda v: v * torch.sigmoid(v),
        lambda v: F.layer_norm(torch.stack([v, v * v, -v], dim=1), (3,))[:, 1],
        lambda v: torch.stack([v, v * v], dim=1).softmax(dim=1)[:, 0],
        lambda v: F.normalize(torch.stack([v, v * v], dim=1), dim=1)[:, 1],
    ],
)
def test_other_operations_keep_gradient(name, function):
    """The gradient of f(v) - 2 f(w), of either sign."""
    v, w = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.5, 0.7))
    expected = torch.autograd.grad((function(v) - 2 * function(w)).sum(), [v, w])
    actual = chains.explain(name, lambda v, w: function(v) - 2 * function(w), 0.5, 0.7)
    assert actual == pytest.approx([float(gradient) for gradient in expected], rel=1e-12)


def test_custom_and_compiled_code_is_refused():
    with pytest.raises(UsageError, match="cannot trace compiled or custom operations"):
        chains.explain("gbp", lambda v: toys.Hidden.apply(v) * 2, 0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()).double().requires_grad_(False)
    scripted = torch.jit.script(net)
    with pytest.raises(UsageError, match="cannot trace compiled or custom operations"):
        xplain.attribute(toys.classifier(scripted), chains.images(), "gbp")


def test_lost_in_place_write_is_refused():
    def sneaky(v: torch.Tensor) -> torch.Tensor:
        other = v * 1
        other.relu_()
        return other

    with pytest.raises(UsageError, match="does not support the model: the logits"):
        chains.explain("gbp", sneaky, -0.5)
    with pytest.raises(UsageError, match="has no rule for index_fill_"):
        chains.explain("gbp", lambda v: v.clone().index_fill_(0, torch.tensor([0]), 0.0), 0.5)
