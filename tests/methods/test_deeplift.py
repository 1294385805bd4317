"""DeepLIFT: the lecture's examples, literal references, captum, completeness on whole networks, refusals."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import family, photos
from tests.reference import propagation
from xplain.core.errors import UsageError

RULES = ("rescale", "reveal-cancel")
both = pytest.mark.parametrize("rule", RULES)


def explain(function, *values: float, **settings) -> list[float]:
    return chains.explain("deeplift", function, *values, **settings)


# ------------------------------------------------------------ the lecture's examples


@both
@pytest.mark.parametrize("over", [-3.0, -0.5, 0.0, 0.25, 4.0])
def test_example_1_is_continuous_at_the_threshold(rule, over):
    """max(0, x - 10) at x = 10 + ε, baseline 0: ε, and 0 below; gradient times input jumps to 10 + ε."""
    assert explain(lambda v: torch.relu(v - 10), 10 + over, rule=rule) == pytest.approx([max(over, 0)])


def minimum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a - torch.relu(a - b)


@pytest.mark.parametrize(("one", "two"), [(0.9, 0.4), (0.4, 0.9), (3.0, 1.0)])
def test_example_2_gives_all_to_one_input_by_rescale_and_halves_by_reveal_cancel(one, two):
    least = min(one, two)
    assert explain(minimum, one, two) == pytest.approx([0, two] if one > two else [one, 0])
    assert explain(minimum, one, two, rule="reveal-cancel") == pytest.approx([least / 2, least / 2])


def test_example_2_with_the_difference_as_a_linear_layer():
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


def test_a_saturated_sigmoid_is_not_blind():
    """σ(a + b) from (0, 0): (50, 0) gives (0.5, 0), (100, 100) gives (0.25, 0.25)."""
    assert explain(lambda a, b: torch.sigmoid(a + b), 50.0, 0.0) == pytest.approx([0.5, 0])
    assert explain(lambda a, b: torch.sigmoid(a + b), 100.0, 100.0) == pytest.approx([0.25, 0.25])


def test_center_subtracts_the_mean_over_classes():
    layers, x = chains.chain(), chains.images()
    made = chains.as_classifier(layers)
    each = torch.stack([xplain.attribute(made, x, "deeplift", target=c).values for c in range(4)])
    found = xplain.attribute(made, x, "deeplift", target=2, center=True)
    toys.assert_same(found.values, each[2] - each.mean(dim=0))
    assert float(found.gap.abs().max()) < 1e-12


# ----------------------------------------------------------------- literal versions


@both
@pytest.mark.parametrize("baseline", ["black", "white", "blur"])
def test_equals_the_literal_reference(rule, baseline):
    from xplain.core.rng import Streams
    from xplain.data.baselines import make_baseline

    layers, x = chains.chain(1), chains.images()
    literal = {"rescale": propagation.rescale, "reveal-cancel": propagation.reveal_cancel}[rule]
    start = make_baseline(baseline, x, torch.zeros(3, 1, 1), Streams.of(x, 0, "deeplift"))
    values = xplain.attribute(
        chains.as_classifier(layers), x, "deeplift", target=1, rule=rule, baseline=baseline
    ).values
    for image, other, found in zip(x, start, values, strict=True):
        expected = literal(layers, image.flatten().numpy(), other.flatten().numpy(), 1)
        toys.assert_same(found.flatten(), torch.from_numpy(expected))


@both
def test_is_gradient_times_input_without_biases_from_black(rule):
    """Rescale only: with f(0) = 0 everywhere, Δy / Δx of a ReLU is its derivative."""
    made, x = chains.as_classifier(chains.chain(2, bias=0.0)), chains.images()
    plain = xplain.attribute(made, x, "gxi", target=0).values
    values = xplain.attribute(made, x, "deeplift", target=0, rule=rule).values
    if rule == "rescale":
        toys.assert_same(values, plain)
    toys.assert_same(values.sum(dim=(1, 2, 3)), plain.sum(dim=(1, 2, 3)))


@both
def test_max_pooling_shares_between_the_two_winners(rule):
    """max(a, b) = b + ReLU(a - b). From (0, 0.3) to (0.8, 0.5): d = 0.3, d' = -0.3, λ = 1/2."""

    def largest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([a - 0.0, b - 1.0], dim=1)[:, None, None] + torch.tensor([0.0, 1.3], dtype=a.dtype)
        return F.max_pool2d(rows, (1, 2))[:, 0, 0, 0]

    assert explain(largest, 0.8, 0.2, rule=rule) == pytest.approx([0.8 * 0.5, 0.2 * 0.5])


@both
def test_products_are_shared_by_both_orders(rule):
    """(a + 1) b from (0, 0) to (2, 3): mean(b) Δa + mean(a + 1) Δb = 1.5 · 2 + 2 · 3."""
    assert explain(lambda a, b: (a + 1) * b, 2.0, 3.0, rule=rule) == pytest.approx([3.0, 6.0])


def test_reveal_cancel_exchanges_parts_under_negative_scales():
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
        found = explain(lambda a, b, flip=flip: a - torch.relu(flip(b - a)), 0.9, 0.4, rule="reveal-cancel")
        assert found == pytest.approx(expected)


# -------------------------------------------------------------------- whole networks


def test_agrees_with_captum_on_vgg_where_its_rules_are_ours():
    """Captum knows Rescale for modules used once. Its max-pooling differs, so the pools are means here."""
    attr = pytest.importorskip("captum.attr")
    made = copy.deepcopy(family("vgg11")).double()
    for i, module in enumerate(made.model.features):
        if isinstance(module, nn.MaxPool2d):
            made.model.features[i] = nn.AvgPool2d(2)
        if isinstance(module, nn.ReLU):
            made.model.features[i] = nn.ReLU()
    x = photos("vgg11", 1).double()
    theirs = attr.DeepLift(made).attribute(x, torch.zeros_like(x), target=5).detach()
    toys.assert_same(xplain.attribute(made, x, "deeplift", target=5).values, theirs, rtol=1e-5)


@both
@pytest.mark.parametrize("model", ["vgg11", "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_is_complete_in_single_precision(model, rule):
    found = xplain.attribute(family(model), photos(model), "deeplift", target=[3, 7], rule=rule)
    assert found.values.isfinite().all()
    assert float((found.gap / found.expected).abs().max()) < 1e-4


@both
def test_two_images_equal_one_and_one(rule):
    made, x = family("resnet18"), photos("resnet18")
    together = xplain.attribute(made, x, "deeplift", target=[3, 7], rule=rule).values
    for i, target in enumerate((3, 7)):
        alone = xplain.attribute(made, x[i : i + 1], "deeplift", target=target, rule=rule).values[0]
        assert float((together[i] - alone).norm() / alone.norm()) < 1e-3


@both
def test_an_image_that_is_its_baseline_gets_zeros(rule):
    made, x = chains.as_classifier(chains.chain()), torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    assert not xplain.attribute(made, x, "deeplift", target=0, rule=rule).values.any()


@both
@pytest.mark.parametrize("function", [F.silu, F.gelu, F.hardswish, torch.tanh, F.relu6, F.elu, F.softplus])
def test_any_function_of_one_number_is_complete(rule, function):
    found = explain(lambda a, b: function(3 * a - 4 * b), 0.9, 0.2, rule=rule)
    zero = torch.zeros((), dtype=torch.float64)
    assert sum(found) == pytest.approx(float(function(zero + 1.9) - function(zero)))
    assert all(math.isfinite(each) for each in found)


@pytest.mark.parametrize("score", ["prob", "log-prob", "margin"])
def test_other_scores_are_refused(score):
    with pytest.raises(UsageError, match=f"deeplift is not defined for score={score}; use logit"):
        xplain.attribute(chains.as_classifier(chains.chain()), chains.images(), "deeplift", score=score)


def test_attention_and_norms_over_features_are_refused():
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 3)).double()
    with pytest.raises(UsageError, match="deeplift has no rule for layer_norm in 1; use saliency"):
        xplain.attribute(toys.classifier(net), chains.images(), "deeplift")
