"""Tests of DGA without ReLU, and of its distilled sequence."""

import pytest
import torch

import xplain
from tests.helpers import toys

NET = toys.small_net(1, scale=15.0)
CLASSIFIER = toys.classifier(NET)
X = toys.images(2)
TARGETS = [2, 0]
N = 5


def attribute(**settings) -> xplain.Attribution:
    return xplain.attribute(CLASSIFIER, X, "dga", target=TARGETS, steps=N, **settings)


@pytest.mark.parametrize("masks", ["both", "wc", "epc"])
def test_signed_maps_sum_to_scores_of_sequence(masks):
    """UFG is complete, so that Σ φ = Σ_n z_t(x̃(n)), with the scores of a plain forward pass."""
    result = attribute(positive=False, sequence=True, masks=masks)
    inputs = result.details["inputs"]
    assert inputs.shape == (2, N + 1, 3, 8, 10)
    logits = NET(inputs.flatten(0, 1)).detach().unflatten(0, (2, N + 1))
    scores = torch.stack([logits[i, :, target] for i, target in enumerate(TARGETS)])
    toys.assert_same(result.details["scores"], scores)
    toys.assert_same(result.total, scores.sum(dim=1))
    assert float(result.values.min()) < 0


@pytest.mark.parametrize("start", ["include", "exclude"])
@pytest.mark.parametrize("positive", [True, False])
def test_sequence_reproduces_map(positive, start):
    """The maps are uniform-fullgrad of the stored inputs."""
    result = attribute(positive=positive, start=start, sequence=True)
    total = torch.zeros_like(X)
    for n in range(N + 1):
        local = xplain.attribute(CLASSIFIER, result.details["inputs"][:, n], "uniform-fullgrad", target=TARGETS).values
        toys.assert_same(result.details["maps"][:, n], local)
        if n > 0 or start == "include":
            total += local.clamp(min=0) if positive else local
    toys.assert_same(result.values, total if start == "include" else total / N)
    toys.assert_same(result.details["inputs"][:, 0], X)


def test_weak_mask_keeps_a_fifth_less_per_step():
    """d = 240 values without ties: M^WC of n keeps 1 - n/N, M^EPC keeps the quantile."""
    result = attribute(masks="wc", quantile=0.5)
    kept = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2], dtype=torch.float64).expand(2, -1)
    toys.assert_same(result.details["kept_wc"][:, :2], kept[:, :2])
    toys.assert_same(result.details["kept_epc"][:, :1], torch.full((2, 1), 0.5, dtype=torch.float64))
    assert "inputs" not in result.details
    assert result.details["kept_wc"].shape == (2, N)
