"""Tests of the noise of expected gradients, which makes it GradientSHAP."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.expected_gradients import gradient_shap
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
BASELINES = toys.images(4, seed=7)
SAMPLES = 7


def draws(seed: int) -> tuple[list[list[torch.Tensor]], torch.Tensor, torch.Tensor]:
    """Return baselines, positions (3, n) and standard normal noise (3, n, C, H, W) that the images draw."""
    streams, numbers = Streams.of(X, seed, "expected-gradients"), torch.arange(SAMPLES)
    ranks = (streams.uniform(numbers, (), torch.float64) * len(BASELINES)).long()
    u = streams.child("alpha").uniform(numbers, (), torch.float64)
    noise = streams.child("noise").normal(numbers, (3, 8, 10), torch.float64)
    return [[BASELINES[k] for k in row] for row in ranks], (numbers + u) / SAMPLES, noise


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("score", ["logit", "prob"])
def test_gradient_shap_equals_reference(score, batch_size):
    settings = {"samples": SAMPLES, "baselines": BASELINES, "noise": 0.2, "seed": 3, "batch_size": batch_size}
    values = xplain.attribute(CLASSIFIER, X, "gradient-shap", target=TARGETS, score=score, **settings).values
    baselines, alphas, noise = draws(3)
    for i, target in enumerate(TARGETS):
        f = gradients.SCORES[score](NETWORK, target)
        expected = gradient_shap(f, X[i], baselines[i], alphas[i].tolist(), list(0.2 * noise[i]))
        toys.assert_same(values[i], expected, rtol=1e-8)


def test_gradient_shap_linear_model_closed_form():
    """φ = w ⊙ (mean x̃ - mean r) of the drawn images and baselines."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    settings = {"samples": SAMPLES, "baselines": BASELINES, "noise": 0.5}
    values = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "gradient-shap", target=1, **settings).values
    baselines, _, noise = draws(0)
    for i in range(3):
        mean_difference = X[i] + 0.5 * noise[i].mean(dim=0) - torch.stack(baselines[i]).mean(dim=0)
        toys.assert_same(values[i], weight[1] * mean_difference, rtol=1e-10)


def test_gradient_shap_without_noise_is_expected_gradients():
    settings = {"target": TARGETS, "samples": SAMPLES, "baselines": BASELINES}
    values = xplain.attribute(CLASSIFIER, X, "gradient-shap", noise=0, **settings).values
    assert torch.equal(values, xplain.attribute(CLASSIFIER, X, "expected-gradients", **settings).values)


def test_gradient_shap_approaches_captum():
    """Means of 4000 samples, within five standard errors of captum's."""
    captum = pytest.importorskip("captum.attr")
    f = torch.nn.Softplus()

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([f(4 * x.sum(dim=(1, 2, 3)) - 2), x.sum(dim=(1, 2, 3))], dim=1)

    model = toys.Function(Network())
    x, baselines = torch.full((1, 3, 1, 2), 0.2, dtype=torch.float64), torch.zeros(2, 3, 1, 2, dtype=torch.float64)
    baselines[1] = 0.1
    ours = xplain.attribute(
        toys.classifier(model), x, "gradient-shap", target=0, samples=4000, baselines=baselines, noise=0.1
    ).values
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = captum.GradientShap(model).attribute(x, baselines, n_samples=4000, stdevs=0.1, target=0)
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)
    assert float(ours.mean()) > 0.3
