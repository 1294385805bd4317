"""Tests of Left-IG: against a literal version, and closed forms."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.left_ig import left_ig
from xplain.core.rng import Streams
from xplain.methods.left_ig import NO_CUTOFF, find_ends

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [1, 4, 2]


@pytest.mark.parametrize("batch_size", ["auto", 4])
@pytest.mark.parametrize("score", ["logit", "prob"])
def test_left_ig_equals_reference(score, batch_size):
    settings = {"steps": 9, "cutoff": 0.95, "baseline": "uniform", "batch_size": batch_size}
    attribution = xplain.attribute(CLASSIFIER, X, "left-ig", target=TARGETS, score=score, **settings)
    starts = Streams.of(X, 0, "left-ig").uniform(torch.zeros(1), (3, 8, 10), torch.float64)[:, 0]
    ends = []
    for i, target in enumerate(TARGETS):
        f = gradients.SCORES[score](NETWORK, target)
        exact, end = left_ig(f, X[i], starts[i], 9, 0.95)
        ends.append(end)
        toys.assert_same(attribution.values[i], exact, rtol=1e-8)
        change = f(starts[i] + end / 9 * (X[i] - starts[i])) - f(starts[i])
        toys.assert_same(attribution.details["score_change"][i], change.detach(), rtol=1e-8)
        assert float(attribution.details["part"][i]) == pytest.approx(end / 9)
    assert len(set(ends)) > 1
    assert (attribution.cost.forwards, attribution.cost.backwards) == (3 * 10 + sum(ends), sum(ends))


def test_left_ig_ends_where_the_score_saturates():
    """min(Σ x, 6) on the line from black to Σ x = 240: the score exceeds 0.9 of 6 first at node 3 of 100; its gradients are 1."""

    def clamped(x):
        return x.sum(dim=(1, 2, 3)).clamp(max=6)[:, None].expand(-1, 2)

    x = torch.ones(1, 3, 8, 10, dtype=torch.float64)
    classifier = toys.classifier(toys.Function(clamped))
    attribution = xplain.attribute(classifier, x, "left-ig", target=0, steps=100)
    toys.assert_same(attribution.values, torch.full_like(x, 3 / 100), rtol=1e-10)
    whole = xplain.attribute(classifier, x, "ig", target=0, steps=100, rule="left")
    assert float(whole.total) == pytest.approx(240 * 3 / 100)  # the same: the other gradients are zero
    toys.assert_same(attribution.details["score_change"], torch.tensor([6.0]), rtol=1e-10)


def test_find_ends_closed_form():
    scores = torch.tensor(
        [[0.0, 5.0, 9.5, 10.0], [10.0, 0.0, 0.0, 1.0], [-4.0, -3.0, -2.0, -1.0], [0.0, 1.0, 0.5, 0.9]]
    )
    assert find_ends(scores, 0.9).tolist() == [2, 1, 3, 1]


def test_left_ig_of_negative_scores_is_the_whole_line():
    weight = -torch.rand(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    classifier = toys.classifier(toys.Linear(weight))
    attribution = xplain.attribute(classifier, X, "left-ig", target=1, baseline="white", steps=4)
    toys.assert_same(attribution.values, weight[1] * (X - 1), rtol=1e-10)
    assert attribution.flags[NO_CUTOFF].tolist() == [True] * 3
