"""Tests of AGI's options of the paper and of the authors' program: L2 ascent, nearest classes, nodes, double softmax."""

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import with_output
from tests.reference import gradients
from tests.reference.integrated_gradients import integrated_gradients
from tests.reference.mfaba import unit
from tests.tools.double_softmax import measure_directions
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.method_run import MethodRun

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2)
TARGETS = [2, 0]
AGAINST = torch.tensor([[0, 3], [4, 1]])


def climb(image: torch.Tensor, target: int, false: int, variant: str, size: float, steps: int):
    """Return -Σ ∇p_t ⊙ move of L2 steps toward a false class, and the last point."""
    total, point = torch.zeros_like(image), image
    climbed, explained = (gradients.probability(NETWORK, index) for index in (false, target))
    for _ in range(steps):
        if int(NETWORK(point[None])[0].argmax()) == false:
            break
        origin = point if variant == "paper" else image
        next_point = (origin + size * unit(gradients.gradient(climbed, point))).clamp(0, 1)
        total = total - gradients.gradient(explained, point) * (next_point - origin)
        point = next_point
    return total, point


@pytest.mark.parametrize("size", [0.2, 3.0])  # the long step is clamped
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_l2_ascent_equals_reference(variant, size):
    settings = {"variant": variant, "step_size": size, "steps": 4}
    attribution = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, against=AGAINST, ascent="l2", **settings)
    for i, (image, target) in enumerate(zip(X, TARGETS, strict=True)):
        maps = [climb(image, target, false, variant, size, 4)[0] for false in AGAINST[i].tolist()]
        toys.assert_same(attribution.values[i], sum(maps))


def test_l2_ascent_closed_form_on_linear_logits():
    """Without a clamp: -J ε w_t ⊙ w_i / ‖w_i‖; the sum is z_t(x) - z_t(x'_i)."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 40
    model = toys.classifier(toys.Linear(weight, torch.tensor([100.0, 0.0], dtype=torch.float64)))
    result = xplain.attribute(
        model, X, "agi", target=0, ascent="l2", variant="paper", step_size=0.05, steps=3, score="logit"
    )
    expected = -3 * 0.05 * weight[0] * weight[1] / float(weight[1].square().sum().sqrt())
    toys.assert_same(result.values, expected.expand_as(X))
    assert float(result.gap.abs().max()) < 1e-12


def test_l2_ascent_without_gradient_takes_no_step():
    model = toys.classifier(toys.Function(lambda x: torch.tensor([1.0, 0.0]).double() + 0 * x.flatten(1)[:, :2]))
    assert not xplain.attribute(model, X, "agi", target=0, ascent="l2", step_size=1.0, steps=2).values.any()


def test_nearest_classes_have_largest_logits():
    result = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, draw="nearest", classes=2, steps=1)
    for row, logits, target in zip(result.details["classes"].tolist(), NETWORK(X).tolist(), TARGETS, strict=True):
        others = [index for index in range(5) if index != target]
        assert row == sorted(others, key=lambda index: -logits[index])[:2]


def test_all_nearest_classes_are_all_random_classes():
    maps = [
        xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, draw=draw, classes=4, steps=2).values
        for draw in ("nearest", "random")
    ]
    toys.assert_same(*maps)


def test_nearest_classes_of_labels_are_absent_labels():
    """Labels 1 and 3 are present; the nearest absent labels of target 1 are 0 and 4."""
    logits = torch.tensor([[-1.0, 2.0, -3.0, 1.0, -2.0]]).double()
    model = with_output(toys.Function(lambda x: logits + 0 * x.mean(dim=(1, 2, 3))[:, None]), "sigmoid")
    result = xplain.attribute(model, X[:1], "agi", target=1, draw="nearest", classes=4, steps=1)
    assert result.details["classes"].tolist() == [[0, 4, 2, -1]]


@pytest.mark.parametrize("nodes", [1, 7])
def test_straight_path_has_its_own_nodes(nodes):
    settings = {"path": "straight", "ascent": "l2", "step_size": 0.2, "steps": 3, "variant": "paper"}
    result = xplain.attribute(CLASSIFIER, X, "agi", target=TARGETS, against=AGAINST, nodes=nodes, **settings)
    for i, (image, target) in enumerate(zip(X, TARGETS, strict=True)):
        f = gradients.probability(NETWORK, target)
        ends = [climb(image, target, false, "paper", 0.2, 3)[1] for false in AGAINST[i].tolist()]
        toys.assert_same(
            result.values[i], sum(integrated_gradients(f, image, end, nodes, "gauss-legendre") for end in ends)
        )
    assert METHODS.get("agi").cost(steps=3, classes=2, path="straight", nodes=nodes) == (2 * (3 + nodes),) * 2


@pytest.mark.parametrize("path", ["curve", "straight"])
def test_double_softmax_equals_model_with_appended_softmax(path):
    """The network of probabilities, hidden from the detection of a softmax at the end, with one softmax."""

    class Appended(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return toys.Hidden.apply(self.net(x).softmax(dim=1))

    net = toys.small_net(1, scale=15.0)
    settings = {"target": TARGETS, "against": AGAINST, "path": path, "steps": 3, "variant": "paper"}
    twice = xplain.attribute(toys.classifier(net), X, "agi", double_softmax=True, **settings)
    appended = xplain.attribute(with_output(Appended(net), "softmax"), X, "agi", **settings)
    once = xplain.attribute(toys.classifier(net), X, "agi", **settings)
    toys.assert_same(twice.values, appended.values)
    toys.assert_same(twice.expected, appended.expected)
    assert float((twice.values - once.values).abs().max()) > 1e-3


def test_double_softmax_requires_softmax():
    with pytest.raises(UsageError, match=r"agi: double_softmax does not apply to score=logit"):
        xplain.attribute(CLASSIFIER, X, "agi", double_softmax=True, score="logit")
    model = with_output(toys.small_net(1), "sigmoid")
    with pytest.raises(UsageError, match=r"a softmax of probabilities requires a model with a softmax"):
        xplain.attribute(model, X, "agi", double_softmax=True)


def test_reached_share_counts_false_classes():
    """A huge step toward class 1 of two linear logits reaches it; none reaches a class that is never the largest."""
    weight = torch.zeros(3, 3, 8, 10, dtype=torch.float64)
    weight[1] = 1.0
    bias = torch.tensor([200.0, 0.0, -999.0], dtype=torch.float64)
    model = toys.classifier(toys.Linear(weight, bias))
    result = xplain.attribute(
        model, X[:1] / 2, "agi", target=0, against=[1, 2], score="logit", step_size=0.9, steps=1, variant="paper"
    )
    assert result.details["reached_share"].tolist() == [0.5]


def test_added_parameters_keep_digest_of_old_runs():
    spec = METHODS.get("agi")
    default = MethodRun.resolve(spec, {}, Preprocessing()).describe()["params"]
    assert default.keys() == {"variant", "path", "step_size", "steps", "classes"}
    chosen = MethodRun.resolve(spec, {"ascent": "l2", "nodes": 3}, Preprocessing()).describe()["params"]
    assert chosen == default | {"ascent": "l2", "nodes": 3}


def test_directions_of_double_softmax_equal_chain_rule():
    """∇q_i = q_i (∇p_i - Σ_c q_c ∇p_c), from which ``tests.tools.double_softmax`` has its cosines."""
    image, ranks = X[:1], (1, 2, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: NETWORK(x).softmax(dim=1)[0], image).flatten(1)
    p = NETWORK(image).softmax(dim=1)[0].detach()
    q, order = p.softmax(dim=0), p.argsort(descending=True)
    expected = []
    for index in order[list(ranks)].tolist():
        once, target = jacobian[index], jacobian[order[0]]
        twice = q[index] * (once - q @ jacobian)
        cosines = [unit(a) @ unit(b) for a, b in ((twice, once), (twice, -target), (once, -target))]
        expected.append([p[index], *cosines, (once.sign() == twice.sign()).double().mean()])
    toys.assert_same(
        torch.from_numpy(measure_directions(NETWORK, image.clone(), ranks)), torch.tensor(expected).double()
    )
