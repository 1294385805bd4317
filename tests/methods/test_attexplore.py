"""AttEXplore against its program, written copy by copy, and its limits."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import attexplore as reference
from tests.reference import gradients
from xplain.core.rng import Streams
from xplain.data.filters import cosine_basis

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2, 15, 21)
PLAIN = {"samples": 1, "noise": 0, "spread": 0, "diversity": 0, "smooth": False, "momentum": 0}


def draws_of(k: int, steps: int, samples: int, noise: float, spread: float, diversity: float) -> list:
    """The copies of image k, from its random streams."""
    rng, shape = Streams.of(X[k : k + 1], 0, "attexplore"), (3, 15, 21)
    most, result = (17, 24), []
    for step in range(steps):
        copies = []
        for number in torch.arange(step * samples, (step + 1) * samples)[:, None]:
            size, down, across, chance = rng.child("diversity").uniform(number, (4,), torch.float64)[0, 0].tolist()
            sides = tuple(side + int(size * (top - side)) for side, top in zip((15, 21), most, strict=True))
            places = tuple(int(u * (top - side)) for u, top, side in zip((down, across), most, sides, strict=True))
            copies.append(
                reference.Draw(
                    noise * rng.child("noise").normal(number, shape, torch.float64)[0, 0],
                    1 + spread * (2 * rng.child("spread").uniform(number, shape, torch.float64)[0, 0] - 1),
                    sides if chance < diversity else None,
                    places,
                )
            )
        result.append(copies)
    return result


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    ("diversity", "momentum", "score"), [(0.5, 1.0, "log-prob"), (1.0, 0.3, "prob"), (0.0, 0.9, "logit")]
)
def test_equals_the_reference(diversity, momentum, score, smooth):
    got = xplain.attribute(
        CLASSIFIER, X, "attexplore", target=1, score=score, steps=3, samples=4, radius=0.1, noise=0.05, spread=0.4,
        diversity=diversity, smooth=smooth, momentum=momentum,
    )  # fmt: skip
    for k, image in enumerate(X):
        draws = draws_of(k, 3, 4, 0.05, 0.4, diversity)
        f = gradients.SCORES[score](NETWORK, 1)
        expected = reference.attexplore(f, image, draws, radius=0.1, smooth=smooth, momentum=momentum)
        toys.assert_same(got.values[k], expected)


def test_without_copies_it_is_signed_ascent_times_normalised_gradients():
    """One exact copy, no smoothing, no momentum: MFABA's smooth path, climbed, with the left rule."""
    got = xplain.attribute(CLASSIFIER, X, "attexplore", target=1, steps=3, radius=0.03, **PLAIN).values
    f = gradients.log_probability(NETWORK, 1)
    for k, image in enumerate(X):
        point, total = image, torch.zeros_like(image)
        for _ in range(3):
            slope = gradients.gradient(f, point)
            moved = (point + 0.01 * slope.sign()).clamp(0, 1)
            total += slope / slope.abs().mean() * (moved - point)
            point = moved
        toys.assert_same(got[k], total)


def test_is_never_negative():
    got = xplain.attribute(CLASSIFIER, X, "attexplore", steps=6, samples=3, radius=0.4).values
    assert got.min() >= 0
    assert got.max() > 0


def test_a_linear_logit_gives_its_normalised_weights():
    weight = torch.randn(2, 3, 15, 21, dtype=torch.float64)
    got = xplain.attribute(
        toys.classifier(toys.Linear(weight)), X, "attexplore", target=0, score="logit", steps=4, radius=0.04, **PLAIN
    ).values
    torch.testing.assert_close(got, (0.04 * weight[0].abs() / weight[0].abs().mean()).expand_as(got))


def test_the_cosine_transform_is_orthonormal():
    for side in (1, 2, 7, 10):
        basis = cosine_basis(side, X)
        torch.testing.assert_close(basis @ basis.T, torch.eye(side, dtype=torch.float64))


def test_a_constant_model_gives_zero_not_nan():
    model = toys.classifier(toys.Function(lambda x: x.new_ones(len(x), 3) + 0 * x.sum()))
    assert xplain.attribute(model, X, "attexplore", target=0, steps=2, samples=2).values.unique().tolist() == [0.0]


def test_seeds_matter_and_batches_do_not():
    def run(images, **options):
        return xplain.attribute(CLASSIFIER, images, "attexplore", target=1, steps=2, samples=3, **options).values

    torch.testing.assert_close(run(X), torch.cat([run(X[:1], batch_size=1), run(X[1:], batch_size=2)]))
    assert not torch.allclose(run(X), run(X, seed=1))
