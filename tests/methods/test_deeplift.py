"""DeepLIFT: textbook examples, literal references, captum, completeness of networks, refusals."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import smooth_images, torchvision_classifier
from tests.reference import propagation
from xplain.core.errors import UsageError

RULES = ("rescale", "reveal-cancel")
both_rules = pytest.mark.parametrize("rule", RULES)


def explain(function, *values: float, **settings) -> list[float]:
    return chains.explain("deeplift", function, *values, **settings)


@both_rules
@pytest.mark.parametrize("excess", [-3.0, -0.5, 0.0, 0.25, 4.0])
def test_example_1_is_continuous_at_threshold(rule, excess):
    """max(0, x - 10) at x = 10 + ε with baseline 0: ε, or 0 below; gradient times input jumps to 10 + ε."""
    assert explain(lambda v: torch.relu(v - 10), 10 + excess, rule=rule) == pytest.approx([max(excess, 0)])


def minimum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a - torch.relu(a - b)


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.4), (0.4, 0.9), (3.0, 1.0)])
def test_example_2_depends_on_rule(first, second):
    least = min(first, second)
    expected = [0, second] if first > second else [first, 0]
    assert explain(minimum, first, second) == pytest.approx(expected)
    assert explain(minimum, first, second, rule="reveal-cancel") == pytest.approx([least / 2, least / 2])


def test_example_2_with_linear_layer():
    weight = torch.tensor([[1.0, -1.0]], dtype=torch.float64)

    def least(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - torch.relu(F.linear(torch.stack([a, b], dim=1), weight))[:, 0]

    assert explain(least, 0.9, 0.4, rule="reveal-cancel") == pytest.approx([0.2, 0.2])


def test_example_3_differs_between_equivalent_networks():
    def first(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(a) - 1 - torch.relu(b))

    def second(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(a - 1) - torch.relu(b))

    assert explain(first, 3.0, 1.0) == pytest.approx([1.5, -0.5])
    assert explain(second, 3.0, 1.0) == pytest.approx([2.0, -1.0])


def test_saturated_sigmoid_gets_contributions():
    """σ(a + b) from (0, 0): (50, 0) gives (0.5, 0), (100, 100) gives (0.25, 0.25)."""
    assert explain(lambda a, b: torch.sigmoid(a + b), 50.0, 0.0) == pytest.approx([0.5, 0])
    assert explain(lambda a, b: torch.sigmoid(a + b), 100.0, 100.0) == pytest.approx([0.25, 0.25])


def test_center_subtracts_class_mean():
    layers, x = chains.chain(), chains.images()
    classifier = chains.as_classifier(layers)
    classes = torch.stack([xplain.attribute(classifier, x, "deeplift", target=c).values for c in range(4)])
    result = xplain.attribute(classifier, x, "deeplift", target=2, center=True)
    toys.assert_same(result.values, classes[2] - classes.mean(dim=0))
    assert float(result.gap.abs().max()) < 1e-12


@both_rules
@pytest.mark.parametrize("baseline", ["black", "white", "blur"])
def test_rules_equal_literal_reference(rule, baseline):
    from xplain.core.rng import Streams
    from xplain.data.baselines import make_baseline

    layers, x = chains.chain(1), chains.images()
    literal = {"rescale": propagation.rescale, "reveal-cancel": propagation.reveal_cancel}[rule]
    start = make_baseline(baseline, x, torch.zeros(3, 1, 1), Streams.of(x, 0, "deeplift"))
    values = xplain.attribute(
        chains.as_classifier(layers), x, "deeplift", target=1, rule=rule, baseline=baseline
    ).values
    for image, base, value in zip(x, start, values, strict=True):
        expected = literal(layers, image.flatten().numpy(), base.flatten().numpy(), 1)
        toys.assert_same(value.flatten(), torch.from_numpy(expected))


@both_rules
def test_no_biases_give_gradient_times_input(rule):
    """With f(0) = 0 everywhere, Δy / Δx of a ReLU is its derivative (Rescale); both rules have the same sum."""
    classifier, x = chains.as_classifier(chains.chain(2, bias=0.0)), chains.images()
    expected = xplain.attribute(classifier, x, "gxi", target=0).values
    values = xplain.attribute(classifier, x, "deeplift", target=0, rule=rule).values
    if rule == "rescale":
        toys.assert_same(values, expected)
    toys.assert_same(values.sum(dim=(1, 2, 3)), expected.sum(dim=(1, 2, 3)))


@both_rules
def test_max_pooling_divides_between_maxima(rule):
    """max(a, b) = b + ReLU(a - b). From (0, 0.3) to (0.8, 0.5): d = 0.3, d' = -0.3, λ = 1/2."""

    def largest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([a - 0.0, b - 1.0], dim=1)[:, None, None] + torch.tensor([0.0, 1.3], dtype=a.dtype)
        return F.max_pool2d(rows, (1, 2))[:, 0, 0, 0]

    assert explain(largest, 0.8, 0.2, rule=rule) == pytest.approx([0.8 * 0.5, 0.2 * 0.5])


@both_rules
def test_products_average_both_orders(rule):
    """(a + 1) b from (0, 0) to (2, 3): mean(b) Δa + mean(a + 1) Δb = 1.5 · 2 + 2 · 3."""
    assert explain(lambda a, b: (a + 1) * b, 2.0, 3.0, rule=rule) == pytest.approx([3.0, 6.0])


def test_negative_scales_swap_parts():
    """ReLU(-(b - a)) is the same as ReLU(a - b), written by neg, by a factor, by rsub or by a batch norm."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    expected = explain(minimum, 0.9, 0.4, rule="reveal-cancel")
    for flip in (
        lambda v: -v,
        lambda v: v * -1,
        lambda v: v / torch.tensor(-1.0),
        lambda v: 0 - v,
        lambda v: F.batch_norm(v[:, None], zero, one, -one, zero, eps=0.0)[:, 0],
    ):
        result = explain(lambda a, b, flip=flip: a - torch.relu(flip(b - a)), 0.9, 0.4, rule="reveal-cancel")
        assert result == pytest.approx(expected)


def test_vgg_without_max_pooling_agrees_with_captum():
    """Captum has Rescale for modules that are used once. Its max-pooling differs, so average pooling replaces it here."""
    attr = pytest.importorskip("captum.attr")
    classifier = copy.deepcopy(torchvision_classifier("vgg11")).double()
    for i, module in enumerate(classifier.model.features):
        if isinstance(module, nn.MaxPool2d):
            classifier.model.features[i] = nn.AvgPool2d(2)
        if isinstance(module, nn.ReLU):
            classifier.model.features[i] = nn.ReLU()
    x = smooth_images("vgg11", 1).double()
    theirs = attr.DeepLift(classifier).attribute(x, torch.zeros_like(x), target=5).detach()
    toys.assert_same(xplain.attribute(classifier, x, "deeplift", target=5).values, theirs, rtol=1e-5)


@both_rules
@pytest.mark.parametrize("model", ["vgg11", "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_networks_are_complete_in_float32(model, rule):
    result = xplain.attribute(torchvision_classifier(model), smooth_images(model), "deeplift", target=[3, 7], rule=rule)
    assert result.values.isfinite().all()
    assert float((result.gap / result.expected).abs().max()) < 1e-4


@both_rules
def test_batch_equals_single_images(rule):
    classifier, x = torchvision_classifier("resnet18"), smooth_images("resnet18")
    together = xplain.attribute(classifier, x, "deeplift", target=[3, 7], rule=rule).values
    for i, target in enumerate((3, 7)):
        alone = xplain.attribute(classifier, x[i : i + 1], "deeplift", target=target, rule=rule).values[0]
        assert float((together[i] - alone).norm() / alone.norm()) < 1e-3


@both_rules
def test_baseline_image_gets_zeros(rule):
    classifier, x = chains.as_classifier(chains.chain()), torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    assert not xplain.attribute(classifier, x, "deeplift", target=0, rule=rule).values.any()


@both_rules
@pytest.mark.parametrize("function", [F.silu, F.gelu, F.hardswish, torch.tanh, F.relu6, F.elu, F.softplus])
def test_activations_are_complete(rule, function):
    result = explain(lambda a, b: function(3 * a - 4 * b), 0.9, 0.2, rule=rule)
    zero = torch.zeros((), dtype=torch.float64)
    assert sum(result) == pytest.approx(float(function(zero + 1.9) - function(zero)))
    assert all(math.isfinite(value) for value in result)


@pytest.mark.parametrize("score", ["prob", "log-prob", "margin"])
def test_other_scores_are_refused(score):
    with pytest.raises(UsageError, match=f"deeplift is not defined for score={score}; use logit"):
        xplain.attribute(chains.as_classifier(chains.chain()), chains.images(), "deeplift", score=score)


def test_reveal_cancel_refuses_layer_norm():
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 3)).double()
    with pytest.raises(
        UsageError, match="deeplift has no rule for layer_norm in 1; use rule=rescale or integrated-gradients"
    ):
        xplain.attribute(toys.classifier(net), chains.images(), "deeplift", rule="reveal-cancel")
