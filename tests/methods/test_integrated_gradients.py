"""Tests of integrated gradients: every rule and baseline, and polynomials that the rules integrate exactly."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import integrated_gradients as reference
from xplain.core.errors import UsageError
from xplain.core.rng import Streams

RULES = ["gauss-legendre", "midpoint", "left", "right", "trapezoid", "chebyshev"]
CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
A = torch.randn(240, 240, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
A = (A + A.T) / 8
B = torch.randn(240, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def baseline_images(kind: str) -> torch.Tensor:
    if kind == "blur":
        return torch.stack([reference.blur(image, 5.0) for image in X])
    if kind == "mean":
        return torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand_as(X)
    if kind == "uniform":
        return Streams.of(X, 0, "integrated-gradients").uniform(torch.zeros(1), (3, 8, 10), torch.float64)[:, 0]
    return torch.full_like(X, {"black": 0.0, "white": 1.0}[kind])


def compare(rule, baseline, steps, score, batch_size="auto"):
    settings = {"rule": rule, "baseline": baseline, "steps": steps, "score": score, "batch_size": batch_size}
    attribution = xplain.attribute(CLASSIFIER, X, "ig", target=TARGETS, **settings)
    starts = baseline_images(baseline)
    for i, (image, target) in enumerate(zip(X, TARGETS, strict=True)):
        f = gradients.SCORES[score](NETWORK, target)
        toys.assert_same(attribution.values[i], reference.integrated_gradients(f, image, starts[i], steps, rule))
        toys.assert_same(attribution.expected[i], (f(image) - f(starts[i])).detach())


@pytest.mark.parametrize("batch_size", ["auto", 2])
@pytest.mark.parametrize("score", ["logit", "prob"])
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_rule_equals_reference(rule, score, batch_size):
    """Not at a constant baseline: there max-pooling has ties, whose gradient depends on rounding."""
    compare(rule, "uniform", 5, score, batch_size)


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur", "uniform"])
def test_integrated_gradients_baseline_equals_reference(baseline):
    compare("gauss-legendre", baseline, 4, "prob")


@pytest.mark.parametrize("rule", ["gauss-legendre", "midpoint", "left", "right"])
def test_integrated_gradients_single_step_equals_reference(rule):
    compare(rule, "uniform", 1, "logit")


def test_integrated_gradients_rejects_one_trapezoid_node():
    with pytest.raises(UsageError, match="trapezoid"):
        xplain.attribute(CLASSIFIER, X, "ig", steps=1, rule="trapezoid")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", ["black", "white"])
def test_integrated_gradients_linear_model_closed_form(rule, baseline):
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    attribution = xplain.attribute(
        toys.classifier(toys.Linear(weight)), X, "ig", target=1, rule=rule, steps=7, baseline=baseline
    )
    toys.assert_same(attribution.values, weight[1] * (X - {"black": 0.0, "white": 1.0}[baseline]), rtol=1e-12)
    assert float(attribution.gap.abs().max()) < 1e-12


@pytest.mark.parametrize("steps", [2, 3])
def test_gauss_legendre_is_exact_on_cubic(steps):
    """f = Σ a x³ from black: φ = a x³."""
    a = B.reshape(3, 8, 10)
    model = toys.Function(lambda x: torch.stack([(a * x**3).sum(dim=(1, 2, 3))] * 2, dim=1))
    values = xplain.attribute(toys.classifier(model), X, "ig", target=0, steps=steps).values
    toys.assert_same(values, a * X**3, rtol=1e-12)


def quadratic(x):
    flat = x.flatten(1)
    return torch.stack([((flat @ A) * flat).sum(dim=1) / 2 + flat @ B] * 2, dim=1)


@pytest.mark.parametrize(
    ("rule", "steps"), [("trapezoid", 2), ("trapezoid", 5), ("midpoint", 1), ("midpoint", 4), ("gauss-legendre", 1)]
)
def test_rules_are_exact_on_quadratic(rule, steps):
    """T4 from black: φ = x ⊙ (A x / 2 + b)."""
    values = xplain.attribute(
        toys.classifier(toys.Function(quadratic)), X, "ig", target=0, rule=rule, steps=steps
    ).values
    flat = X.flatten(1)
    toys.assert_same(values.flatten(1), flat * (flat @ A / 2 + B), rtol=1e-11)


@pytest.mark.parametrize(("rule", "sign"), [("left", -1), ("right", 1)])
@pytest.mark.parametrize("steps", [1, 4])
def test_one_sided_rules_on_quadratic(rule, sign, steps):
    """T4 from black: the error of the Riemann sums is ± x ⊙ A x / (2n)."""
    values = xplain.attribute(
        toys.classifier(toys.Function(quadratic)), X, "ig", target=0, rule=rule, steps=steps
    ).values
    flat = X.flatten(1)
    expected = flat * (flat @ A / 2 + B) + sign * flat * (flat @ A) / (2 * steps)
    toys.assert_same(values.flatten(1), expected, rtol=1e-11)


def test_integrated_gradients_handles_saturation():
    """T6: 1 - ReLU(1 - 2x) rises from 0 to 1 before x = 1/2 and is flat at x = 1; the attribution is 1."""
    model = toys.Function(lambda x: torch.stack([1 - (1 - 2 * x.sum(dim=(1, 2, 3))).relu()] * 2, dim=1))
    x = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    x[0, 0] = 1.0
    attribution = xplain.attribute(toys.classifier(model), x, "ig", target=0, rule="midpoint", steps=10)
    assert attribution.values.flatten().tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-15)
    assert attribution.expected.tolist() == [1.0]


def test_integrated_gradients_is_complete_on_smooth_model():
    """Softmax of sums of sines, from black."""
    frequencies = torch.randn(3, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4
    model = toys.Function(lambda x: torch.einsum("bchw,kchw->bk", (2 * x).sin(), frequencies))
    attribution = xplain.attribute(toys.classifier(model), X, "ig", target=2, score="prob", steps=20)
    exact = model(X).softmax(1)[:, 2] - 1 / 3
    assert float(exact.abs().min()) > 0.05
    assert float(((attribution.total - exact) / exact).abs().max()) < 1e-9


@pytest.mark.parametrize("steps", [3, 8])
def test_integrated_gradients_cost(steps):
    classifier, _ = toys.with_pixels(toys.small_net(1))
    rows = toys.watch(classifier)
    cost = xplain.attribute(classifier, X, "ig", steps=steps).cost
    assert (cost.forwards, cost.backwards, cost.checks) == (3 * steps, 3 * steps, 3 * (2 + 1))
    assert sum(rows) == cost.forwards + cost.checks


def test_integrated_gradients_of_its_baseline_is_zero():
    values = xplain.attribute(CLASSIFIER, torch.zeros_like(X), "ig", target=2).values
    assert float(values.abs().max()) == 0.0
