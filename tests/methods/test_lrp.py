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
from tests.helpers.networks import MEAN, STD, smooth_images, torchvision_classifier
from tests.reference import propagation
from xplain.core.errors import UsageError
from xplain.methods.lrp import LrpRule

RULES = get_args(LrpRule)
SETTINGS = {"zero": {}, "gamma": {}, "z-plus": {}, "alpha-beta": {"alpha": 2.0}}


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


@pytest.mark.parametrize("rule", list(SETTINGS))
def test_lrp_equals_literal_reference(rule):
    layers, x = chains.chain(3), chains.images() - 0.4  # pixels of both signs
    classifier = chains.as_classifier(layers)
    with toys.any_range():
        values = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, epsilon=1e-12, **SETTINGS[rule]).values
    for image, value in zip(x, values, strict=True):
        name = {"alpha-beta": "alpha2-beta1"}.get(rule, rule)
        expected = propagation.relevance(layers, image.flatten().numpy(), 1, name)
        toys.assert_same(value.flatten(), torch.from_numpy(expected), rtol=1e-6)


def test_deep_taylor_equals_literal_reference():
    layers, x = chains.chain(3), chains.images()
    values = xplain.attribute(chains.as_classifier(layers), x, "deep-taylor", target=1).values
    for image, value in zip(x, values, strict=True):
        expected = propagation.relevance(layers, image.flatten().numpy(), 1, "deep-taylor", low=0.0, high=1.0)
        toys.assert_same(value.flatten(), torch.from_numpy(expected), rtol=1e-6)


def test_zero_rule_is_input_times_gradient():
    """On ReLU networks with folded batch norms: R = u ⊙ ∂f/∂u, with u the normalized image."""
    classifier, _ = toys.with_pixels(toys.small_net(scale=15.0))
    x = toys.images()
    gradients = xplain.attribute(classifier, x, "saliency", target=1).values
    expected = (x - classifier.mean) * gradients
    toys.assert_same(xplain.attribute(classifier, x, "lrp", target=1, rule="zero").values, expected, rtol=1e-5)


def test_epsilon_limits():
    classifier, x = chains.as_classifier(chains.chain()), chains.images()
    zero = xplain.attribute(classifier, x, "lrp", target=1, rule="zero").values
    toys.assert_same(xplain.attribute(classifier, x, "lrp", target=1, epsilon=1e-12).values, zero, rtol=1e-4)
    large = xplain.attribute(classifier, x, "lrp", target=1, epsilon=10.0).values
    assert bool((large.abs().sum(dim=(1, 2, 3)) < 0.1 * zero.abs().sum(dim=(1, 2, 3))).all())


def test_alpha_one_and_large_gamma_are_z_plus():
    classifier = chains.as_classifier(chains.chain(5, bias=0.0))
    x = chains.images()
    target = classifier(x).argmax(dim=1)  # z-plus requires positive outputs
    plus = xplain.attribute(classifier, x, "lrp", target=target, rule="z-plus").values
    toys.assert_same(xplain.attribute(classifier, x, "lrp", target=target, rule="alpha-beta", alpha=1.0).values, plus)
    boosted = xplain.attribute(classifier, x, "lrp", target=target, rule="gamma", gamma=1e9).values
    toys.assert_same(boosted, plus, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_rules_conserve_logit_without_biases(rule):
    """The relevance sums to the logit, with residual additions, max-pooling and mean-pooling."""

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
        classifier = toys.classifier(Residual().double(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    x = toys.images()
    values = xplain.attribute(
        classifier, x, "lrp", rule=rule, epsilon=1e-12
    ).values  # a negative logit may have no positive part
    toys.assert_same(values.sum(dim=(1, 2, 3)), classifier(x).amax(dim=1).detach(), rtol=1e-5)


@pytest.mark.parametrize("model", ["vgg11", "resnet18", "googlenet"])
def test_deep_taylor_conserves_logit_and_sign(model):
    classifier, x = torchvision_classifier(model), smooth_images(model)
    values = xplain.attribute(classifier, x, "deep-taylor", target=[3, 7]).values
    logits = classifier(x).detach()[[0, 1], [3, 7]]
    torch.testing.assert_close(values.sum(dim=(1, 2, 3)), logits, rtol=1e-3, atol=1e-3)
    assert bool((values * logits.sign()[:, None, None, None] >= -1e-6 * values.abs().max()).all())


def test_max_pooling_gives_relevance_to_maximum():
    def largest(a, b):
        return F.max_pool2d(torch.stack([a, b], dim=1)[:, None, None], (1, 2))[:, 0, 0, 0]

    assert chains.explain("lrp", largest, 0.3, 0.8) == pytest.approx([0.0, 0.8])


@pytest.mark.parametrize("rule", ["epsilon", "attn-lrp", "cp-lrp"])
def test_product_of_equal_shapes_gives_halves(rule):
    """v w: half of the relevance each; v σ(v) keeps all, as σ passes its half on to v; v / (1 + w): all to v."""
    assert chains.explain("lrp", lambda v, w: v * w, 0.5, 0.6, rule=rule) == pytest.approx([0.15, 0.15])
    swish = float(F.silu(torch.tensor(0.5, dtype=torch.float64)))
    assert chains.explain("lrp", lambda v: v * torch.sigmoid(v), 0.5, rule=rule) == pytest.approx([swish])
    assert chains.explain("lrp", F.silu, 0.5, rule=rule) == pytest.approx([swish])
    assert chains.explain("lrp", lambda v, w: v / (1 + w), 0.5, 0.6, rule=rule) == pytest.approx([0.3125, 0])


def test_gate_gets_no_relevance():
    """x σ(mean x), with the gate broadcast as in squeeze-and-excite: x gets all relevance, in proportion to the sum."""

    def squeezed(a, b):
        rows = torch.stack([a, b], dim=1)
        return (rows * torch.sigmoid(rows.mean(dim=1, keepdim=True))).sum(dim=1)

    gate = float(torch.sigmoid(torch.tensor(0.55, dtype=torch.float64)))
    assert chains.explain("lrp", squeezed, 0.3, 0.8) == pytest.approx([0.3 * gate, 0.8 * gate])


def zennit_relevance(
    model: str, classifier: xplain.Classifier, x: torch.Tensor, target: int, rule: str
) -> torch.Tensor:
    """Return zennit's map, on the network without the normalization."""
    pytest.importorskip("zennit")
    from zennit import composites, torchvision
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon
    from zennit.types import Convolution, Linear

    mean = torch.tensor(MEAN, dtype=x.dtype)[:, None, None]
    std = torch.tensor(STD, dtype=x.dtype)[:, None, None]
    canonizers = [torchvision.ResNetCanonizer() if model == "resnet18" else torchvision.VGGCanonizer()]
    ends = {"low": (0 - mean)[None] / std, "high": (1 - mean)[None] / std}
    composite = {
        "epsilon": lambda: LayerMapComposite(
            [*layer_map_base(), (Convolution, Epsilon()), (Linear, Epsilon())], canonizers=canonizers
        ),
        "epsilon-plus": lambda: composites.EpsilonPlus(canonizers=canonizers),
        "epsilon-gamma-box": lambda: composites.EpsilonGammaBox(canonizers=canonizers, **ends),
    }[rule]()
    net, u = copy.deepcopy(classifier.model), (x - mean) / std
    start = torch.zeros_like(net(u))
    start[:, target] = net(u)[:, target].detach()
    with warnings.catch_warnings(), Gradient(model=net, composite=composite) as attributor:
        warnings.simplefilter("ignore")
        return attributor(u, start)[1].detach()


@pytest.mark.parametrize("rule", ["epsilon", "epsilon-plus", "epsilon-gamma-box"])
@pytest.mark.parametrize("model", ["vgg11", "resnet18"])
def test_lrp_agrees_with_zennit(model, rule):
    classifier, x = copy.deepcopy(torchvision_classifier(model)).double(), smooth_images(model, 1).double()
    values = xplain.attribute(classifier, x, "lrp", target=7, rule=rule).values
    assert correlation(values, zennit_relevance(model, classifier, x, 7, rule)) > 0.999


def test_lrp_agrees_with_captum():
    """Captum applies its epsilon rule to every layer and treats max-pooling as xplain does."""
    attr = pytest.importorskip("captum.attr")
    classifier = copy.deepcopy(torchvision_classifier("vgg11")).double()
    for i, module in enumerate(classifier.model.features):
        if isinstance(module, nn.ReLU):
            classifier.model.features[i] = nn.ReLU()
    x = smooth_images("vgg11", 1).double()
    u = (x - classifier.mean) / classifier.std
    theirs = attr.LRP(classifier.model).attribute(u, target=7).detach()
    assert correlation(xplain.attribute(classifier, x, "lrp", target=7, epsilon=1e-9).values, theirs) > 0.999


@pytest.mark.parametrize("rule", ["epsilon", "epsilon-gamma-box"])
@pytest.mark.parametrize("model", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_gates_and_shuffled_channels_are_finite(model, rule):
    values = xplain.attribute(
        torchvision_classifier(model), smooth_images(model), "lrp", target=[3, 7], rule=rule
    ).values
    assert values.isfinite().all()
    assert float(values.abs().max()) > 0


def test_operations_without_rule_are_refused():
    x = chains.images()
    with pytest.raises(UsageError, match="lrp is not defined for score=prob; use logit or margin"):
        xplain.attribute(chains.as_classifier(chains.chain()), x, "lrp", score="prob")
    outer = lambda v, w: (v[:, None, None].expand(-1, 2, 1) * w[:, None, None].expand(-1, 1, 2))[:, 0, 0]  # noqa: E731
    for rule in ("epsilon", "attn-lrp"):
        with pytest.raises(UsageError, match="no rule for a product of broadcast factors in the model; use deeplift"):
            chains.explain("lrp", outer, 0.5, 0.3, rule=rule)
    with pytest.raises(UsageError, match="deep-taylor has no rule for hardswish in act1; use lrp, deeplift"):
        xplain.attribute(toys.classifier(toys.small_net(activation=nn.Hardswish)), toys.images(), "deep-taylor")
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).double()
    with pytest.raises(UsageError, match="deep-taylor has no rule for batch_norm in 0; use lrp"):
        xplain.attribute(toys.classifier(net), x, "deep-taylor")
