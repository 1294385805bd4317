"""LRP and deep Taylor: literal references, zennit and captum, conservation, gradient times input, refusals."""

import copy
import warnings
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import MEAN, STD, family, photos
from tests.reference import propagation
from xplain.core.errors import UsageError
from xplain.methods.lrp import LrpRule

RULES = get_args(LrpRule)
LITERAL = {"zero": {}, "gamma": {}, "z-plus": {}, "alpha-beta": {"alpha": 2.0}}


def pearson(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten().double(), two.flatten().double()]))[0, 1])


# ------------------------------------------------------------------------ literal


@pytest.mark.parametrize("rule", list(LITERAL))
def test_equals_the_literal_reference(rule):
    layers, x = chains.chain(3), chains.images() - 0.4  # pixels of both signs
    made = chains.as_classifier(layers)
    values = xplain.attribute(made, x, "lrp", target=1, rule=rule, epsilon=1e-12, **LITERAL[rule]).values
    for image, found in zip(x, values, strict=True):
        name = {"alpha-beta": "alpha2-beta1"}.get(rule, rule)
        expected = propagation.relevance(layers, image.flatten().numpy(), 1, name)
        toys.assert_same(found.flatten(), torch.from_numpy(expected), rtol=1e-6)


def test_deep_taylor_equals_the_literal_reference():
    layers, x = chains.chain(3), chains.images()
    values = xplain.attribute(chains.as_classifier(layers), x, "deep-taylor", target=1).values
    for image, found in zip(x, values, strict=True):
        expected = propagation.relevance(layers, image.flatten().numpy(), 1, "deep-taylor", low=0.0, high=1.0)
        toys.assert_same(found.flatten(), torch.from_numpy(expected), rtol=1e-6)


# --------------------------------------------------------------------- identities


def test_zero_is_the_normalised_input_times_the_gradient():
    """On ReLU networks, batch norms folded: R = u ⊙ ∂f/∂u with u the normalised image."""
    made, _ = toys.with_pixels(toys.small_net(scale=15.0))
    x = toys.images()
    gradients = xplain.attribute(made, x, "saliency", target=1).values
    expected = (x - made.mean) * gradients
    toys.assert_same(xplain.attribute(made, x, "lrp", target=1, rule="zero").values, expected, rtol=1e-5)


def test_a_small_epsilon_is_zero_and_a_large_one_absorbs():
    made, x = chains.as_classifier(chains.chain()), chains.images()
    zero = xplain.attribute(made, x, "lrp", target=1, rule="zero").values
    toys.assert_same(xplain.attribute(made, x, "lrp", target=1, epsilon=1e-12).values, zero, rtol=1e-4)
    large = xplain.attribute(made, x, "lrp", target=1, epsilon=10.0).values
    assert bool((large.abs().sum(dim=(1, 2, 3)) < 0.1 * zero.abs().sum(dim=(1, 2, 3))).all())


def test_alpha_one_is_z_plus_and_a_huge_gamma_too():
    made = chains.as_classifier(chains.chain(5, bias=0.0))
    x = chains.images()
    target = made(x).argmax(dim=1)  # z-plus knows no negative outputs
    plus = xplain.attribute(made, x, "lrp", target=target, rule="z-plus").values
    toys.assert_same(xplain.attribute(made, x, "lrp", target=target, rule="alpha-beta", alpha=1.0).values, plus)
    boosted = xplain.attribute(made, x, "lrp", target=target, rule="gamma", gamma=1e9).values
    toys.assert_same(boosted, plus, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_conserves_the_logit_without_biases(rule):
    """Sums of relevance are the logit: residual additions, pooling by maximum and by mean included."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Conv2d(a, 6, 3, padding=1, bias=False) for a in (3, 6))
            self.head = nn.Linear(6, 4, bias=False)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.one(x), inplace=True), 3, 2)
            x = F.relu(self.two(x) + x)
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = toys.classifier(Residual().double(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    x = toys.images()
    values = xplain.attribute(
        made, x, "lrp", rule=rule, epsilon=1e-12
    ).values  # a negative logit may have no positive part
    toys.assert_same(values.sum(dim=(1, 2, 3)), made(x).amax(dim=1).detach(), rtol=1e-5)


@pytest.mark.parametrize("model", ["vgg11", "resnet18", "googlenet"])
def test_deep_taylor_conserves_the_logit_and_has_its_sign(model):
    made, x = family(model), photos(model)
    values = xplain.attribute(made, x, "deep-taylor", target=[3, 7]).values
    logits = made(x).detach()[[0, 1], [3, 7]]
    torch.testing.assert_close(values.sum(dim=(1, 2, 3)), logits, rtol=1e-3, atol=1e-3)
    assert bool((values * logits.sign()[:, None, None, None] >= -1e-6 * values.abs().max()).all())


def test_max_pooling_gives_all_to_the_winner():
    def largest(a, b):
        return F.max_pool2d(torch.stack([a, b], dim=1)[:, None, None], (1, 2))[:, 0, 0, 0]

    assert chains.explain("lrp", largest, 0.3, 0.8) == pytest.approx([0.0, 0.8])


def test_a_gate_takes_nothing():
    """x σ(mean x), the gate stretched over the image as in squeeze-and-excite: all to x, in proportion to the sum."""

    def squeezed(a, b):
        rows = torch.stack([a, b], dim=1)
        return (rows * torch.sigmoid(rows.mean(dim=1, keepdim=True))).sum(dim=1)

    gate = float(torch.sigmoid(torch.tensor(0.55, dtype=torch.float64)))
    assert chains.explain("lrp", squeezed, 0.3, 0.8) == pytest.approx([0.3 * gate, 0.8 * gate])


# ----------------------------------------------------------------- other programs


def zennit_relevance(model: str, made: xplain.Classifier, x: torch.Tensor, target: int, rule: str) -> torch.Tensor:
    """Zennit's map, on the network without its normalisation."""
    pytest.importorskip("zennit")
    from zennit import composites, torchvision
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon
    from zennit.types import Convolution, Linear

    mean, std = (torch.tensor(each, dtype=x.dtype)[:, None, None] for each in (MEAN, STD))
    canonizers = [torchvision.ResNetCanonizer() if model == "resnet18" else torchvision.VGGCanonizer()]
    ends = {"low": (0 - mean)[None] / std, "high": (1 - mean)[None] / std}
    composite = {
        "epsilon": lambda: LayerMapComposite(
            [*layer_map_base(), (Convolution, Epsilon()), (Linear, Epsilon())], canonizers=canonizers
        ),
        "epsilon-plus": lambda: composites.EpsilonPlus(canonizers=canonizers),
        "epsilon-gamma-box": lambda: composites.EpsilonGammaBox(canonizers=canonizers, **ends),
    }[rule]()
    net, u = copy.deepcopy(made.model), (x - mean) / std
    start = torch.zeros_like(net(u))
    start[:, target] = net(u)[:, target].detach()
    with warnings.catch_warnings(), Gradient(model=net, composite=composite) as attributor:
        warnings.simplefilter("ignore")
        return attributor(u, start)[1].detach()


@pytest.mark.parametrize("rule", ["epsilon", "epsilon-plus", "epsilon-gamma-box"])
@pytest.mark.parametrize("model", ["vgg11", "resnet18"])
def test_agrees_with_zennit(model, rule):
    made, x = copy.deepcopy(family(model)).double(), photos(model, 1).double()
    values = xplain.attribute(made, x, "lrp", target=7, rule=rule).values
    assert pearson(values, zennit_relevance(model, made, x, 7, rule)) > 0.999


def test_agrees_with_captum_on_vgg():
    """Captum's epsilon rule on every layer; its pools are means here, as it treats the maximum the same way as we do."""
    attr = pytest.importorskip("captum.attr")
    made = copy.deepcopy(family("vgg11")).double()
    for i, module in enumerate(made.model.features):
        if isinstance(module, nn.ReLU):
            made.model.features[i] = nn.ReLU()
    x = photos("vgg11", 1).double()
    u = (x - made.mean) / made.std
    theirs = attr.LRP(made.model).attribute(u, target=7).detach()
    assert pearson(xplain.attribute(made, x, "lrp", target=7, epsilon=1e-9).values, theirs) > 0.999


# --------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("rule", ["epsilon", "epsilon-gamma-box"])
@pytest.mark.parametrize("model", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_is_finite_on_gates_and_shuffled_channels(model, rule):
    found = xplain.attribute(family(model), photos(model), "lrp", target=[3, 7], rule=rule).values
    assert found.isfinite().all()
    assert float(found.abs().max()) > 0


def test_refusals():
    x = chains.images()
    with pytest.raises(UsageError, match="lrp is not defined for score=prob; use logit or margin"):
        xplain.attribute(chains.as_classifier(chains.chain()), x, "lrp", score="prob")
    with pytest.raises(UsageError, match="no rule for a product of equal shapes in model; use deeplift"):
        chains.explain("lrp", lambda v: v * torch.sigmoid(v), 0.5)
    with pytest.raises(UsageError, match="deep-taylor has no rule for hardswish in act1; use lrp, deeplift"):
        xplain.attribute(toys.classifier(toys.small_net(activation=nn.Hardswish)), toys.images(), "deep-taylor")
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).double()
    with pytest.raises(UsageError, match="deep-taylor has no rule for batch_norm in 0; use lrp"):
        xplain.attribute(toys.classifier(net), x, "deep-taylor")
