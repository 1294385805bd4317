"""Every method gives the same map for a network with and without its final activation, and for a negated single logit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xplain
import xplain.methods
from tests.helpers.output_networks import SIZE, Ending, X, body, followed_by, load
from xplain.core.errors import UsageError, XplainError
from xplain.core.registry import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
SETTINGS = {
    "rise": {"masks": 8}, "lime": {"samples": 12}, "kernel-shap": {"samples": 12}, "xrai": {"steps": 2},
    "integrated-gradients": {"steps": 2}, "expected-gradients": {"samples": 3}, "guided-ig": {"steps": 3},
    "blur-ig": {"steps": 3}, "boundary-ig": {"steps": 2, "attack_steps": 3}, "smoothgrad": {"samples": 3},
    "neflag": {"samples": 2}, "agi": {"steps": 2, "classes": 2}, "mfaba": {"steps": 3}, "dga": {"steps": 2},
    "attexplore": {"samples": 2}, "isa": {"steps": 2}, "la": {"steps": 2},
}  # fmt: skip
LRP_RULES = ("zero", "gamma", "z-plus", "alpha-beta", "epsilon-plus", "epsilon-gamma-box")
CASES = [(spec.name, {}) for spec in METHODS] + [("lrp", {"rule": rule}) for rule in LRP_RULES]


def explain(model: nn.Module, method: str, settings: dict, target: int, **options) -> torch.Tensor | str:
    """Return a map, or the message of the error if the method refuses the model."""
    known = {name: value for name, value in SETTINGS.get(method, {}).items() if name in METHODS.get(method).resolve({})}
    try:
        classifier = load(model, **options)
        return xplain.attribute(classifier, X, method, target=target, score="logit", **known, **settings).values
    except XplainError as error:
        return str(error)


def assert_equal(first: torch.Tensor | str, second: torch.Tensor | str) -> None:
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        assert "attention" in first  # no other method refuses these networks
    else:
        assert torch.equal(first, second)


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_final_activation_changes_no_map(method, settings):
    expected = explain(body(3), method, settings, 1)
    assert_equal(explain(followed_by(3, nn.Softmax(dim=1)), method, settings, 1), expected)
    one = explain(body(1), method, settings, 0)
    assert_equal(explain(Ending(body(1), lambda z: z.sigmoid().squeeze()), method, settings, 0), one)


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_negated_logit_swaps_the_classes(method, settings):
    expected = explain(body(1), method, settings, 1)
    assert_equal(explain(body(1, sign=-1), method, settings, 0), expected)
    assert_equal(explain(Ending(body(1), lambda z: -z[:, 0]), method, settings, 0), expected)


@pytest.mark.parametrize(("method", "settings"), [("deep-taylor", {}), ("lrp", {"rule": "gamma"})])
def test_rules_that_need_the_sign_refuse_class_0(method, settings):
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    model.size = SIZE
    classifier = load(model)
    assert xplain.attribute(classifier, X, method, target=1, **settings).values.isfinite().all()
    with pytest.raises(UsageError) as error:
        xplain.attribute(classifier, X, method, target=0, **settings)
    assert str(error.value) == (
        f"{method} with these rules cannot explain class 0, because the model's output is not that of a linear layer; "
        "explain class 1, or use lrp with rule=epsilon"
    )


def test_linear_model_closed_form():
    weight = torch.linspace(-1, 2, 240, dtype=torch.float64).reshape(1, 3, *SIZE)
    layer = nn.Linear(240, 1, bias=False).double()
    layer.weight.data.copy_(weight.reshape(1, 240))
    for end in ((), (nn.Sigmoid(),), (nn.Sigmoid(), nn.Flatten(0))):
        model = nn.Sequential(nn.Flatten(), layer, *end)
        model.size = SIZE
        classifier = load(model)
        for target, sign in ((0, -1), (1, 1)):
            gradient = xplain.attribute(classifier, X, "saliency", target=target).values
            assert torch.equal(gradient, sign * weight.expand(2, -1, -1, -1))
            product = xplain.attribute(classifier, X, "input-x-gradient", target=target).values
            assert torch.equal(product, sign * weight * X)
            path = xplain.attribute(classifier, X, "integrated-gradients", target=target, steps=3).values
            assert float((path - sign * weight * X).abs().max()) < 1e-12


def test_multi_label_maps_stay_in_their_regions():
    layer = nn.Linear(240, 2, bias=False).double()
    mask = torch.zeros(2, 3, *SIZE, dtype=torch.float64)
    mask[0, :, :5], mask[1, :, 5:] = 1, 1
    layer.weight.data.copy_((mask * torch.rand(2, 3, *SIZE, dtype=torch.float64)).reshape(2, 240))
    model = nn.Sequential(nn.Flatten(), layer, nn.Sigmoid())
    model.size = SIZE
    for target in (0, 1):
        values = xplain.attribute(load(model), X, "integrated-gradients", target=target, steps=2).values
        assert float(values[:, mask[target] == 0].abs().max()) == 0
        assert float(values[:, mask[target] == 1].abs().min()) > 0
