"""Tests of BIG: against literal versions of both programs, closed forms, and failed attacks."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import boundary_ig as reference
from tests.reference import gradients
from tests.reference.integrated_gradients import integrated_gradients
from xplain.methods.boundary_ig import BISECTIONS

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(4)
LABELS = NETWORK(X).argmax(dim=1)
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4


@pytest.mark.parametrize("radius", [None, 0.02])
@pytest.mark.parametrize("step_size", [0.008, 0.05])
@pytest.mark.parametrize("score", ["prob", "margin"])
@pytest.mark.parametrize("target", ["top", 2])
def test_boundary_ig_equals_reference(target, score, step_size, radius):
    targets = LABELS.tolist() if target == "top" else [2] * 4
    attribution = xplain.attribute(
        CLASSIFIER,
        X,
        "big",
        target=targets,
        score=score,
        attack_steps=8,
        attack_step_size=step_size,
        steps=5,
        radius=radius,
    )
    for k, image in enumerate(X):
        f = gradients.SCORES[score](NETWORK, targets[k])
        attack = reference.attack(NETWORK, f, image, steps=8, step_size=step_size, radius=radius, halvings=BISECTIONS)
        toys.assert_same(attribution.values[k], integrated_gradients(f, image, attack.end, 5, "gauss-legendre"))
        assert int(attribution.details["attack_steps"][k]) == attack.steps
        assert bool(attribution.flags["the predicted class did not change within 8 steps"][k]) == (not attack.changed)
        torch.testing.assert_close(attribution.details["distance"][k], (image - attack.end).norm())


@pytest.mark.parametrize("radius", [None, 0.01])
def test_boundary_ig_official_equals_reference(radius):
    attribution = xplain.attribute(
        CLASSIFIER,
        X,
        "big",
        target=1,
        variant="official",
        attack_steps=6,
        attack_step_size=0.01,
        steps=7,
        radius=radius,
    )
    for k, image in enumerate(X):
        f = gradients.probability(NETWORK, 1)
        attack = reference.official_attack(NETWORK, f, image, steps=6, step_size=0.01, radius=radius)
        toys.assert_same(attribution.values[k], reference.trapezoid_of_captum(f, image, attack.end, 7))
        assert bool(attribution.flags["the predicted class did not change within 6 steps"][k]) == (not attack.changed)


def test_boundary_ig_covers_both_outcomes():
    attribution = xplain.attribute(CLASSIFIER, X, "big", attack_steps=8, attack_step_size=0.008)
    failed = next(iter(attribution.flags.values()))
    assert failed.any()
    assert not failed.all()


def linear(margin: float, image: torch.Tensor) -> xplain.Classifier:
    """Return a model of two linear logits that differ by ``margin`` at the image; class 0 has the larger one."""
    slack = margin - float(((WEIGHT[0] - WEIGHT[1]) * image).sum())
    return toys.classifier(toys.Linear(WEIGHT, torch.tensor([slack, 0.0], dtype=torch.float64)))


def test_boundary_ig_linear_model_closed_form():
    """With linear f = z_0 - z_1 the boundary is at f = 0: φ = w ⊙ (x - x_b), and it sums to the margin."""
    clf, w = linear(1.5, X[0]), WEIGHT[0] - WEIGHT[1]
    attribution = xplain.attribute(clf, X[:1], "big", target=0, score="margin", attack_step_size=0.01, steps=3)
    far = 1.5 / float(w.abs().sum())  # the L-infinity distance of the boundary
    assert float(attribution.details["distance"]) == pytest.approx(far * 240**0.5, abs=2e-4)
    torch.testing.assert_close(attribution.values[0], far * w.abs(), atol=2e-4, rtol=0)
    assert float(attribution.total) == pytest.approx(1.5, abs=0.01 / 2**BISECTIONS * float(w.abs().sum()))
    torch.testing.assert_close(attribution.gap, torch.zeros(1, dtype=torch.float64), atol=1e-12, rtol=0)
    assert not attribution.flags["the predicted class did not change within 50 steps"]


def test_boundary_ig_flags_failed_attack():
    attribution = xplain.attribute(linear(1e6, X[0]), X[:1], "big", target=0, score="margin", attack_steps=4)
    assert attribution.flags["the predicted class did not change within 4 steps"]
    assert attribution.details["attack_steps"] == 4
    torch.testing.assert_close(attribution.values[0], 0.004 * (WEIGHT[0] - WEIGHT[1]).abs())


def test_boundary_ig_respects_radius():
    attribution = xplain.attribute(CLASSIFIER, X, "big", attack_step_size=0.3, radius=0.05, attack_steps=3)
    assert (attribution.details["distance"] <= 0.05 * 240**0.5 + 1e-12).all()


def test_boundary_ig_cost_is_at_most_claimed():
    attribution = xplain.attribute(linear(1e6, X[0]), X[:1], "big", target=0, attack_steps=4, steps=6)
    assert (attribution.cost.forwards, attribution.cost.backwards) == (4 + 1 + 6, 4 + 6)
    attribution = xplain.attribute(CLASSIFIER, X, "big", variant="official", attack_steps=4, steps=6)
    assert (attribution.cost.forwards, attribution.cost.backwards) == (4 * (4 + 1 + 6), 4 * (4 + 6))
