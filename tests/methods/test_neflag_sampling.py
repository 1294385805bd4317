"""Tests of NeFLAG's Eq. 5 by random samples: drawn points, the closed form on linear scores, and Lemma 1's 2-cycle."""

import math

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2)
TARGETS = [2, 0]


@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_sampling_equals_sum_over_negative_fluxes(batch_size):
    samples, radius = 9, 0.1
    draws = Streams.of(X, 0, "neflag").normal(torch.arange(samples), (3, 8, 10), torch.float64)
    result = xplain.attribute(
        CLASSIFIER, X, "neflag", target=TARGETS, variant="sample", samples=samples, radius=radius, batch_size=batch_size
    )
    for i, (image, target) in enumerate(zip(X, TARGETS, strict=True)):
        total, negative = torch.zeros_like(image), 0
        for draw in draws[i]:
            u = draw / float((draw**2).sum()) ** 0.5
            field = gradients.gradient(gradients.probability(NETWORK, target), image + radius * u)
            if float((field * u).sum()) < 0:
                total -= field * u / samples
                negative += 1
        toys.assert_same(result.values[i], total)
        assert float(result.details["negative_flux_share"][i]) == pytest.approx(negative / samples)
        assert 0 < negative < samples
    assert (result.total > 0).all()
    assert (result.cost.forwards, result.cost.backwards) == (2 * samples, 2 * samples)


def test_sampling_closed_form_on_linear_score():
    """E φ = c w² / ‖w‖ with c = Γ(d/2) / (2 √π Γ((d + 1)/2)), d = 6; half of the points have negative flux."""
    weight = torch.tensor([[0.5, -1.0, 2.0, 0.3, 1.5, -0.7]], dtype=torch.float64).reshape(1, 3, 1, 2)
    model = toys.classifier(toys.Linear(torch.cat([weight, 0 * weight])))
    x = torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    result = xplain.attribute(model, x, "neflag", target=0, score="logit", variant="sample", samples=40_000)
    c = math.gamma(3) / (2 * math.sqrt(math.pi) * math.gamma(3.5))
    expected = c * weight[0] ** 2 / float(weight.square().sum().sqrt())
    torch.testing.assert_close(result.values[0], expected, rtol=0.05, atol=0.003)
    assert float(result.details["negative_flux_share"]) == pytest.approx(0.5, abs=0.01)


def test_sampling_with_zero_gradient_is_zero():
    model = toys.classifier(toys.Function(lambda x: torch.tensor([1.0, 0.0]).double() + 0 * x.flatten(1)[:, :2]))
    result = xplain.attribute(model, X, "neflag", target=0, variant="sample", samples=3)
    assert not result.values.any()
    assert result.details["negative_flux_share"].tolist() == [0.0, 0.0]


def test_lemma_iteration_alternates_across_kink():
    """f = |w · (x - x₀)|: the points x₀ ± ε w / ‖w‖ alternate, so one more step changes the sign of the last gradient."""
    weight = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def logits(x):
        f = (weight * (x - X[0])).sum(dim=(1, 2, 3))
        f = f.relu() + (-f).relu()
        return torch.stack([f, 0 * f], dim=1)

    model = toys.classifier(toys.Function(logits))
    # with flux=start the gradient is that of the point before, which lies on the other side: the products are equal;
    # with flux=end point and gradient belong together, and f falls toward the kink, so that the flux is positive
    for flux, sign in (("start", 1), ("end", -1)):
        for steps in (40, 41):
            values = xplain.attribute(
                model, X[:1], "neflag", target=0, score="logit", variant="lemma", flux=flux, steps=steps, samples=1
            ).values[0]
            toys.assert_same(values, sign * 0.1 * weight**2 / float(weight.square().sum().sqrt()))


def test_lemma_iteration_ends_in_a_cycle_of_two_on_a_relu_network():
    """After many steps the map is that of two steps before, and not that of the step before."""
    model = toys.classifier(toys.small_net(3, scale=15.0, norm=False))
    maps = [
        xplain.attribute(
            model, X[:1], "neflag", target=1, score="logit", variant="lemma", steps=steps, samples=1
        ).values
        for steps in (30, 31, 32)
    ]
    toys.assert_same(maps[0], maps[2])
    assert float((maps[1] - maps[0]).abs().max()) > 0.1 * float(maps[0].abs().max())
