"""Max-sensitivity on models whose gradients are known."""

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
    """2 x, the gradient of the sum of squares."""
    return 2 * images


def measured(method="saliency", maps: Tensor = 2 * X, images: Tensor = X, classifier=SQUARES, **options):
    return xplain.measure(classifier, images, maps, "max-sensitivity", method=method, target=1, **options)


def shifts(samples: int, radius: float = 0.02, seed: int = 0) -> Tensor:
    """(3, samples, 60) the moves of X, one by one."""
    keys = Streams.of(X, seed, "max-sensitivity")
    drawn = [keys.uniform(torch.tensor([k]), (3, 4, 5), torch.float64)[:, 0] for k in range(samples)]
    return (torch.stack(drawn, dim=1).flatten(2) * 2 - 1) * radius


@pytest.mark.parametrize("method", ["saliency", double])
def test_of_a_quadratic_it_is_the_longest_move_by_the_length_of_the_image(method):
    moves = shifts(6)
    assert 0.0199 < moves.abs().max() < 0.02
    expected = moves.norm(dim=2).amax(dim=1) / X.flatten(1).norm(dim=1)
    toys.assert_same(measured(method, samples=6).values, expected)


def test_a_map_that_does_not_look_at_the_image_moves_nowhere():
    found = xplain.measure(SQUARES, X, torch.ones_like(X), "max-sensitivity", method="saliency", target=0)
    assert found.values.tolist() == [0, 0, 0]


def test_every_move_of_an_image_has_the_methods_draws_of_that_image():
    """So a random map, which does not look at the image, stays where it is; with another seed it is another map."""
    maps = xplain.attribute(SQUARES, X, "random").values
    assert measured("random", maps).values.tolist() == [0, 0, 0]
    assert measured("random", maps, seed=1).values.min() > 0.5


def test_it_does_not_depend_on_the_scale_of_the_map_and_grows_with_radius_and_samples():
    plain = measured(double).values
    toys.assert_same(measured(lambda c, x, y: 10 * x, 10 * X).values, plain)
    toys.assert_same(measured(double, radius=0.04).values, 2 * plain)
    more = measured(double, samples=30).values
    assert (more >= plain).all()
    assert (more > plain).any()


def test_the_class_stays_that_of_the_clean_image():
    """Where a step of 0.02 changes the prediction, the gradient of the first class is still the one explained."""
    edge = toys.classifier(toys.Function(lambda x: torch.stack([x.sum((1, 2, 3)), 2.4 - x.sum((1, 2, 3))], dim=1)))
    x = torch.full((1, 3, 2, 2), 0.1000001, dtype=torch.float64)  # 1.2 and a little
    found = xplain.measure(edge, x, torch.ones_like(x), "max-sensitivity", method="saliency")
    assert found.values.tolist() == [0]


def test_all_moves_of_all_images_go_to_the_method_together():
    calls = []

    def watching(classifier, images: Tensor, target: Tensor) -> Tensor:
        calls.append((images, target))
        return 2 * images

    measured(watching, samples=7)
    ((images, target),) = calls
    toys.assert_same(images, (X.flatten(1)[:, None] + shifts(7)).reshape(21, 3, 4, 5))
    assert target.tolist() == [1] * 21


def test_images_are_measured_as_if_alone_and_rows_are_counted():
    net, x = toys.classifier(toys.small_net(1)), toys.images(3)
    maps = xplain.attribute(net, x, "saliency", target=2).values
    together = xplain.measure(net, x, maps, "max-sensitivity", method="saliency", target=2, samples=4, batch_size=5)
    for i in range(3):
        one = slice(i, i + 1)
        alone = xplain.measure(net, x[one], maps[one], "max-sensitivity", method="saliency", target=2, samples=4)
        toys.assert_same(together.values[one], alone.values)
    assert (together.cost.forwards, together.cost.backwards) == (12, 12)


def test_a_zero_map_has_no_relative_change():
    maps = 2 * X
    maps[1] = 0
    found = measured(double, maps)
    assert found.values.isnan().tolist() == [False, True, False]
    assert {reason: mask.tolist() for reason, mask in found.undefined.items()} == {
        "the attribution is zero": [False, True, False]
    }
