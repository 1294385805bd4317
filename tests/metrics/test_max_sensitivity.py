"""Max-sensitivity on models with known gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.rng import Streams

X = toys.images(3, 4, 5)
SQUARES = toys.classifier(toys.Function(lambda x: torch.stack([x.sum((1, 2, 3)), (x**2).sum((1, 2, 3))], dim=1)))


def double(classifier, images: Tensor, target: Tensor) -> Tensor:
    """Return 2 x, the gradient of the sum of squares."""
    return 2 * images


def compute_score(method="saliency", maps: Tensor = 2 * X, images: Tensor = X, classifier=SQUARES, **options):
    return xplain.measure(classifier, images, maps, "max-sensitivity", method=method, target=1, **options)


def draw_shifts(samples: int, radius: float = 0.02, seed: int = 0) -> Tensor:
    """Return the shifts (3, samples, 60) of X, drawn separately."""
    keys = Streams.of(X, seed, "max-sensitivity")
    drawn = [keys.uniform(torch.tensor([k]), (3, 4, 5), torch.float64)[:, 0] for k in range(samples)]
    return (torch.stack(drawn, dim=1).flatten(2) * 2 - 1) * radius


@pytest.mark.parametrize("method", ["saliency", double])
def test_quadratic_model_matches_longest_shift(method):
    shifts_of_x = draw_shifts(6)
    assert 0.0199 < shifts_of_x.abs().max() < 0.02
    expected = shifts_of_x.norm(dim=2).amax(dim=1) / X.flatten(1).norm(dim=1)
    toys.assert_same(compute_score(method, samples=6).values, expected)


def test_constant_gradient_scores_zero():
    score = xplain.measure(SQUARES, X, torch.ones_like(X), "max-sensitivity", method="saliency", target=0)
    assert score.values.tolist() == [0, 0, 0]


def test_method_draws_ignore_shifts():
    """A random map, which ignores the image, does not change; with another seed it does."""
    maps = xplain.attribute(SQUARES, X, "random").values
    assert compute_score("random", maps).values.tolist() == [0, 0, 0]
    assert compute_score("random", maps, seed=1).values.min() > 0.5


def test_score_ignores_map_scale():
    plain = compute_score(double).values
    toys.assert_same(compute_score(lambda c, x, y: 10 * x, 10 * X).values, plain)
    toys.assert_same(compute_score(double, radius=0.04).values, 2 * plain)
    more = compute_score(double, samples=30).values
    assert (more >= plain).all()
    assert (more > plain).any()


def test_target_is_of_unperturbed_image():
    """A shift of 0.02 changes the prediction, but not the class that is explained."""
    edge = toys.classifier(toys.Function(lambda x: torch.stack([x.sum((1, 2, 3)), 2.4 - x.sum((1, 2, 3))], dim=1)))
    x = torch.full((1, 3, 2, 2), 0.1000001, dtype=torch.float64)  # 1.2 and a little
    score = xplain.measure(edge, x, torch.ones_like(x), "max-sensitivity", method="saliency")
    assert score.values.tolist() == [0]


def test_method_gets_all_shifts_together():
    calls = []

    def record_calls(classifier, images: Tensor, target: Tensor) -> Tensor:
        calls.append((images, target))
        return 2 * images

    compute_score(record_calls, samples=7)
    ((images, target),) = calls
    toys.assert_same(images, (X.flatten(1)[:, None] + draw_shifts(7)).reshape(21, 3, 4, 5))
    assert target.tolist() == [1] * 21


def test_score_is_independent_of_batch():
    net, x = toys.classifier(toys.small_net(1)), toys.images(3)
    maps = xplain.attribute(net, x, "saliency", target=2).values
    together = xplain.measure(net, x, maps, "max-sensitivity", method="saliency", target=2, samples=4, batch_size=5)
    for i in range(3):
        row = slice(i, i + 1)
        alone = xplain.measure(net, x[row], maps[row], "max-sensitivity", method="saliency", target=2, samples=4)
        toys.assert_same(together.values[row], alone.values)
    assert (together.cost.forwards, together.cost.backwards) == (12, 12)


def test_zero_map_is_undefined():
    maps = 2 * X
    maps[1] = 0
    score = compute_score(double, maps)
    assert score.values.isnan().tolist() == [False, True, False]
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {
        "the attribution is zero": [False, True, False]
    }
