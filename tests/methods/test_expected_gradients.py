"""Tests of expected gradients: against a literal version with given draws, and of the drawn baselines."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import expected_gradients as reference
from tests.reference import gradients
from xplain.core.errors import InputError
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
REFERENCES = torch.cat([toys.images(2, seed=7), X[1:2], toys.images(2, seed=8)])  # the third is image 1 itself


def alphas(streams: Streams, n: int) -> torch.Tensor:
    """Return positions (B, n), one in each of n equal intervals."""
    u = streams.child("alpha").uniform(torch.arange(n), (1, 1, 1), torch.float64)[..., 0, 0, 0]
    return (torch.arange(n) + u) / n


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("score", ["logit", "prob"])
def test_expected_gradients_with_noise_equals_reference(score, batch_size):
    n, streams = 7, Streams.of(X, 3, "expected-gradients")
    drawn, positions = streams.uniform(torch.arange(n), (3, 8, 10), torch.float64), alphas(streams, n)
    values = xplain.attribute(
        CLASSIFIER, X, "eg", target=TARGETS, samples=n, score=score, seed=3, batch_size=batch_size
    ).values
    for i, target in enumerate(TARGETS):
        f = gradients.SCORES[score](NETWORK, target)
        toys.assert_same(values[i], reference.expected_gradients(f, X[i], list(drawn[i]), positions[i].tolist()))


def drawn_references(n: int, seed: int) -> list[list[torch.Tensor]]:
    """Return the baselines that each image draws: uniformly among those that are not the image itself."""
    ranks = Streams.of(X, seed, "expected-gradients").uniform(torch.arange(n), (), torch.float64)
    usable = [[baseline for baseline in REFERENCES if not torch.equal(baseline, image)] for image in X]
    assert [len(baselines) for baselines in usable] == [5, 4, 5]
    return [
        [baselines[int(rank * len(baselines))] for rank in row] for baselines, row in zip(usable, ranks, strict=True)
    ]


@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_expected_gradients_with_images_equals_reference(batch_size):
    n = 9
    drawn, positions = drawn_references(n, 1), alphas(Streams.of(X, 1, "expected-gradients"), n)
    values = xplain.attribute(
        CLASSIFIER, X, "eg", target=TARGETS, samples=n, baselines=REFERENCES, seed=1, batch_size=batch_size
    ).values
    for i, target in enumerate(TARGETS):
        f = gradients.logit(NETWORK, target)
        toys.assert_same(values[i], reference.expected_gradients(f, X[i], drawn[i], positions[i].tolist()))


def test_expected_gradients_linear_model_closed_form():
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = toys.classifier(toys.Linear(weight))
    values = xplain.attribute(model, X, "eg", target=1, samples=6, baselines=REFERENCES).values
    for value, image, drawn in zip(values, X, drawn_references(6, 0), strict=True):
        toys.assert_same(value, weight[1] * (image - torch.stack(drawn).mean(dim=0)), rtol=1e-12)


def test_expected_gradients_approaches_integrated_gradients():
    """f = Σ x³ from r: φ = (x - r)(x² + x r + r²) = x³ - r³; one position in each interval errs by O(n^-3/2)."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([(x**3).sum(dim=(1, 2, 3))] * 2, dim=1)))
    values = xplain.attribute(model, X[:1], "eg", target=0, samples=400, baselines=REFERENCES[:1]).values
    exact = X[0] ** 3 - REFERENCES[0] ** 3
    assert float((values[0] - exact).abs().max()) < 5 * 6 / 12**0.5 / 400**1.5  # |slope of 3 (x - r) x²| <= 6


def test_expected_gradients_rejects_own_baseline_only():
    with pytest.raises(InputError, match="the explained image is the only baseline"):
        xplain.attribute(CLASSIFIER, X[:1], "eg", samples=2, baselines=X[:1])


def test_expected_gradients_rejects_other_sizes():
    with pytest.raises(InputError, match="baselines"):
        xplain.attribute(CLASSIFIER, X, "eg", samples=2, baselines=toys.images(2, height=9))
