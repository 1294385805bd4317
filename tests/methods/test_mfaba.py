"""Tests of MFABA: every ascent, rule and path against a stored path; closed forms; stopping; cost."""

import math

import pytest
import torch

import xplain
import xplain.pipelines.attribution
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import mfaba as reference
from xplain.core.registry import METHODS

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 2, 0]  # image 2 is predicted as 2: one step
STEP = {"sharp": 0.1, "smooth": 0.01}
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4


def compare(ascent, step_size=None, steps=12, radius=None, score="prob", batch_size="auto", **settings):
    walk = {"ascent": ascent, "step_size": step_size or STEP[ascent], "steps": steps, "radius": radius}
    attribution = xplain.attribute(
        CLASSIFIER, X, "mfaba", target=TARGETS, score=score, batch_size=batch_size, **walk, **settings
    )
    for i, (image, target) in enumerate(zip(X, TARGETS, strict=True)):
        f = gradients.SCORES[score](NETWORK, target)
        points = reference.descend(NETWORK, f, image, target, **walk)
        toys.assert_same(attribution.values[i], reference.attribute(f, points, **settings))
        assert int(attribution.details["steps"][i]) == len(points) - 1
        if attribution.expected is not None:
            toys.assert_same(attribution.expected[i], (f(image) - f(points[-1])).detach())
    return attribution


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
@pytest.mark.parametrize("rule", ["trapezoid", "left"])
@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_mfaba_equals_reference(ascent, rule, path):
    attribution = compare(ascent, rule=rule, path=path)
    assert attribution.details["steps"].tolist() == {"sharp": [8, 11, 1], "smooth": [7, 9, 1]}[ascent]


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_mfaba_step_limit_equals_reference(ascent, path):
    attribution = compare(ascent, steps=4, path=path)
    assert toys.warned(attribution, "the predicted class did not change within 4 steps") == [True, True, False]


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
@pytest.mark.parametrize(("ascent", "step_size", "radius"), [("sharp", 0.1, 0.01), ("smooth", 0.01, 0.025)])
def test_mfaba_radius_equals_reference(ascent, step_size, radius, path):
    compare(ascent, step_size, radius=radius, path=path, steps=6)


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
def test_mfaba_clamped_path_equals_reference(path):
    compare("smooth", 0.4, path=path, steps=5)


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
@pytest.mark.parametrize("step_size", [0.1, 4.0])
def test_mfaba_aggressive_only_equals_reference(step_size, path):
    compare("sharp", step_size, path=path, aggressive_only=True)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("score", ["prob", "logit", "log-prob", "margin"])
def test_mfaba_score_and_batch_size_equal_reference(score, batch_size):
    compare("sharp", score=score, batch_size=batch_size, steps=5)


def linear(margin: float) -> xplain.Classifier:
    """Return a model of two linear logits that differ by ``margin`` at image 0; class 0 has the larger one."""
    slack = margin - float(((WEIGHT[0] - WEIGHT[1]) * X[0]).sum())
    return toys.classifier(toys.Linear(WEIGHT, torch.tensor([slack, 0.0], dtype=torch.float64)))


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
@pytest.mark.parametrize("rule", ["trapezoid", "left"])
@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_mfaba_linear_logits_closed_form(ascent, rule, path):
    """smooth n η |w|, sharp n η w² / ‖w‖; n is the number of steps that use up the margin; all rules and paths agree."""
    w, norm = WEIGHT[0], float(WEIGHT[0].square().sum().sqrt())
    direction, eta = (w / norm, 0.05) if ascent == "sharp" else (w.sign(), 0.005)
    fall = eta * float(((WEIGHT[0] - WEIGHT[1]) * direction).sum())
    n = math.ceil(0.9 / fall)
    assert n > 3
    attribution = xplain.attribute(
        linear(0.9), X[:1], "mfaba", target=0, score="logit", ascent=ascent, rule=rule, path=path, step_size=eta
    )
    assert attribution.details["steps"].tolist() == [n]
    toys.assert_same(attribution.values[0], n * eta * w * direction, rtol=1e-10)
    if path == "curve":
        assert abs(float(attribution.gap)) < 1e-12


def test_mfaba_paths_agree_on_straight_line():
    """With two linear logits ∇p_t keeps its direction: the steps lie on a line although the gradients differ."""
    maps = [
        xplain.attribute(linear(1.2), X[:1], "mfaba", target=0, step_size=0.05, path=path).values[0]
        for path in ("curve", "norm", "cosine")
    ]
    difference = WEIGHT[0] - WEIGHT[1]
    norm = float(difference.square().sum().sqrt())
    n = math.ceil(1.2 / (0.05 * norm))
    assert n > 4
    p = torch.tensor([1.2 - j * 0.05 * norm for j in range(n + 1)], dtype=torch.float64).sigmoid()
    slopes = p * (1 - p)
    exact = 0.05 * float(slopes.sum() - (slopes[0] + slopes[-1]) / 2) * difference**2 / norm
    for values in maps:
        toys.assert_same(values, exact, rtol=1e-10)


A = torch.randn(240, 240, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
A = (A + A.T) / 8
B = torch.randn(240, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def quadratic(x):
    """Return logits f = ½ xᵀAx + bᵀx + 100 and 0: class 0 is always predicted."""
    flat = x.flatten(1)
    f = ((flat @ A) * flat).sum(dim=1) / 2 + flat @ B + 100
    return torch.stack([f, torch.zeros_like(f)], dim=1)


def test_mfaba_rules_on_quadratic():
    """T4: left - exact = ½ Σ Δᵀ A Δ (steps Δ = -η g / ‖g‖, g = A x + b; no pixel reaches the border)."""
    x, curvature = X[0].flatten(), 0.0
    for _ in range(6):
        g = A @ x + B
        delta = -0.02 * g / g.square().sum().sqrt()
        curvature += float(delta @ A @ delta) / 2
        x = x + delta
    settings = {"target": 0, "score": "logit", "step_size": 0.02, "steps": 6}
    model = toys.classifier(toys.Function(quadratic))
    exact, left = (xplain.attribute(model, X[:1], "mfaba", rule=rule, **settings) for rule in ("trapezoid", "left"))
    assert abs(curvature) > 1e-5
    assert abs(float(exact.gap)) < 1e-11
    assert float(left.gap) == pytest.approx(curvature, abs=1e-11)


def sines() -> xplain.Classifier:
    """Return a model with a smooth score whose label never changes."""
    mix = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) / 4

    def logits(x):
        f = (mix * (3 * x).sin()).sum(dim=(1, 2, 3))
        return torch.stack([f + 100, torch.zeros_like(f)], dim=1)

    return toys.classifier(toys.Function(logits))


@pytest.mark.parametrize(("rule", "order"), [("trapezoid", 2), ("left", 1)])
def test_mfaba_gap_order_of_rule(rule, order):
    gaps = [
        float(
            xplain.attribute(
                sines(), X[:1], "mfaba", target=0, score="logit", rule=rule, step_size=0.2 / parts, steps=6 * parts
            ).gap
        )
        for parts in (1, 2, 4)
    ]
    assert abs(gaps[2]) > 1e-8
    assert gaps[0] / gaps[1] == pytest.approx(2**order, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2**order, rel=0.15)


def test_mfaba_trapezoid_gap_is_smaller():
    trapezoid, left = (
        xplain.attribute(CLASSIFIER, X, "mfaba", target=2, step_size=0.1, rule=rule) for rule in ("trapezoid", "left")
    )
    assert (trapezoid.gap.abs() < left.gap.abs()).all()
    assert float((trapezoid.gap / trapezoid.expected).abs().max()) < 0.02


@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_mfaba_left_rule_is_non_negative(ascent):
    values = xplain.attribute(CLASSIFIER, X, "mfaba", ascent=ascent, rule="left", step_size=STEP[ascent]).values
    assert float(values.min()) >= 0.0 < float(values.max())


def test_mfaba_aggressive_only_keeps_falling_path():
    all_segments, aggressive = (
        xplain.attribute(CLASSIFIER, X, "mfaba", target=2, step_size=0.05, aggressive_only=only)
        for only in (False, True)
    )
    assert torch.equal(all_segments.values, aggressive.values)
    assert all_segments.expected is not None
    assert aggressive.expected is None


def test_mfaba_aggressive_only_ignores_overshoot():
    """f = ½ Σ (x - c)²: from radius 0.1, a step of 0.3 through the center ends at radius 0.2, where f is larger."""
    center = X[0]
    offset = torch.zeros_like(center)
    offset[1, 4, 5] = 0.1

    def logits(x):
        f = ((x - center) ** 2).sum(dim=(1, 2, 3)) / 2
        return torch.stack([f + 1, torch.zeros_like(f)], dim=1)

    x, settings = (center + offset)[None], {"target": 0, "score": "logit", "step_size": 0.3, "steps": 1}
    model = toys.classifier(toys.Function(logits))
    kept = xplain.attribute(model, x, "mfaba", **settings).values[0]
    assert float(kept[1, 4, 5]) == pytest.approx((0.1**2 - 0.2**2) / 2, rel=1e-11)
    assert float(xplain.attribute(model, x, "mfaba", aggressive_only=True, **settings).values.abs().max()) == 0.0


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.0), (2, 0.0), (3, -0.00375), (4, 0.0045)])
def test_mfaba_aggressive_only_needs_both_ends(steps, expected):
    """One value jumps across a bowl and back, another lowers f in every step: f - f_0 is 0.00375, -0.005, -0.00125, -0.0095."""

    def logits(x):
        f = (x[:, 0, 0, 0] - 0.4) ** 2 / 2 + 0.01 * x[:, 1, 2, 3]
        return torch.stack([f + 1, torch.zeros_like(f)], dim=1)

    x = torch.full((1, 3, 8, 10), 0.95, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.5
    model = toys.classifier(toys.Function(logits))
    settings = {"target": 0, "score": "logit", "ascent": "smooth", "step_size": 0.25, "steps": steps}
    total = float(xplain.attribute(model, x, "mfaba", aggressive_only=True, **settings).total)
    assert total == pytest.approx(expected, abs=1e-15)


def test_mfaba_aggressive_only_keeps_equal_ends():
    """f = |x - 1/2| of one value; a step of 1/16 goes from 1/32 above the middle to 1/32 below it; the left gradient is 1."""

    def logits(x):
        f = (x[:, 0, 0, 0] - 0.5).abs()
        return torch.stack([f + 1, torch.zeros_like(f)], dim=1)

    x = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.53125
    settings = {"target": 0, "score": "logit", "step_size": 0.0625, "steps": 1, "rule": "left", "aggressive_only": True}
    attribution = xplain.attribute(toys.classifier(toys.Function(logits)), x, "mfaba", **settings)
    assert attribution.values.flatten()[:2].tolist() == [0.0625, 0.0]


def test_mfaba_flat_score_gives_zero():
    """f is flat within 0.1 of 0.4 and rises beyond; a move of 0.3 in either direction would leave the flat part."""

    def logits(x):
        f = ((x - 0.4).abs() - 0.1).relu().sum(dim=(1, 2, 3))
        return torch.stack([f + 1, torch.zeros_like(f)], dim=1)

    x = torch.full((1, 3, 8, 10), 0.4, dtype=torch.float64)
    settings = {"target": 0, "score": "logit", "step_size": 0.3, "steps": 3}
    attribution = xplain.attribute(toys.classifier(toys.Function(logits)), x, "mfaba", **settings)
    assert attribution.values.unique().tolist() == [0.0]


def test_mfaba_stops_at_first_label_change():
    """Each step lowers the margin by 0.05 ‖w_0 - w_1‖: only the last step crosses the boundary."""
    norm = float((WEIGHT[0] - WEIGHT[1]).square().sum().sqrt())
    for n in (1, 2, 5):
        attribution = xplain.attribute(linear((n - 0.5) * 0.05 * norm), X[:1], "mfaba", target=0, step_size=0.05)
        assert attribution.details["steps"].tolist() == [n]
        assert toys.warned(attribution, "the predicted class did not change") == [False]


def test_mfaba_ignores_finished_images():
    """Images with 8, 11 and 1 steps in one batch equal single images."""
    together = xplain.attribute(CLASSIFIER, X, "mfaba", target=TARGETS, step_size=0.1).values
    for i in range(3):
        alone = xplain.attribute(CLASSIFIER, X[i : i + 1], "mfaba", target=TARGETS[i], step_size=0.1).values
        toys.assert_same(together[i], alone[0], rtol=1e-11)


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_mfaba_saturated_softmax_gives_zero(ascent, path):
    """T10: logits 200 apart in float32; the probability is exactly 1 and its gradient exactly 0."""
    weight = (WEIGHT / 4).float()
    model = toys.classifier(toys.Linear(weight, torch.tensor([200.0, 0.0])))
    attribution = xplain.attribute(model, X.float(), "mfaba", ascent=ascent, path=path, steps=3)
    assert attribution.values.unique().tolist() == [0.0]
    assert toys.warned(attribution, "the predicted class did not change within 3 steps") == [True, True, True]


def test_mfaba_path_stays_in_range():
    """f = Σ x is descended to black, where the path stops: the sum is f(x)."""

    def logits(x):
        f = x.sum(dim=(1, 2, 3))
        return torch.stack([f + 1, torch.zeros_like(f)], dim=1)

    attribution = xplain.attribute(
        toys.classifier(toys.Function(logits)),
        X,
        "mfaba",
        target=0,
        score="logit",
        ascent="smooth",
        step_size=0.3,
        steps=5,
    )
    toys.assert_same(attribution.values, X, rtol=1e-12)
    toys.assert_same(attribution.expected, X.sum(dim=(1, 2, 3)), rtol=1e-12)


def test_mfaba_cost_per_step():
    classifier, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
    rows = toys.watch(classifier)
    attribution = xplain.attribute(classifier, X, "mfaba", target=TARGETS, step_size=0.1)
    assert attribution.details["steps"].tolist() == [8, 11, 1]
    assert (attribution.cost.forwards, attribution.cost.backwards, attribution.cost.checks) == (
        9 + 12 + 2,
        9 + 12 + 2,
        3,
    )
    assert rows == [3] + [3] * 2 + [2] * 7 + [1] * 3


def test_mfaba_cost_at_step_limit():
    attribution = xplain.attribute(CLASSIFIER, X[:2], "mfaba", target=TARGETS[:2], step_size=0.1, steps=4)
    assert toys.warned(attribution, "the predicted class did not change within 4 steps") == [True, True]
    assert METHODS.get("mfaba").cost(steps=4) == (5, 5)
    assert (attribution.cost.forwards, attribution.cost.backwards) == (2 * 5, 2 * 5)
