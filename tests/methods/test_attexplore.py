"""Tests of AttEXplore: against a literal version that makes one copy at a time, and in limits."""

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
    """Return the copies of image k, from its random streams."""
    rng, shape = Streams.of(X[k : k + 1], 0, "attexplore"), (3, 15, 21)
    largest, steps_draws = (17, 24), []
    for step in range(steps):
        copies = []
        for number in torch.arange(step * samples, (step + 1) * samples)[:, None]:
            size, down, across, chance = rng.child("diversity").uniform(number, (4,), torch.float64)[0, 0].tolist()
            sides = tuple(side + int(size * (top - side)) for side, top in zip((15, 21), largest, strict=True))
            offsets = tuple(int(u * (top - side)) for u, top, side in zip((down, across), largest, sides, strict=True))
            copies.append(
                reference.Draw(
                    noise * rng.child("noise").normal(number, shape, torch.float64)[0, 0],
                    1 + spread * (2 * rng.child("spread").uniform(number, shape, torch.float64)[0, 0] - 1),
                    sides if chance < diversity else None,
                    offsets,
                )
            )
        steps_draws.append(copies)
    return steps_draws


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    ("diversity", "momentum", "score"), [(0.5, 1.0, "log-prob"), (1.0, 0.3, "prob"), (0.0, 0.9, "logit")]
)
def test_attexplore_equals_reference(diversity, momentum, score, smooth):
    attribution = xplain.attribute(
        CLASSIFIER, X, "attexplore", target=1, score=score, steps=3, samples=4, radius=0.1, noise=0.05, spread=0.4,
        diversity=diversity, smooth=smooth, momentum=momentum,
    )  # fmt: skip
    for k, image in enumerate(X):
        draws = draws_of(k, 3, 4, 0.05, 0.4, diversity)
        f = gradients.SCORES[score](NETWORK, 1)
        expected = reference.attexplore(f, image, draws, radius=0.1, smooth=smooth, momentum=momentum)
        toys.assert_same(attribution.values[k], expected)


def test_attexplore_without_copies_is_signed_ascent():
    """With one exact copy, no smoothing and no momentum it is MFABA's smooth path, ascended, with the left rule."""
    values = xplain.attribute(CLASSIFIER, X, "attexplore", target=1, steps=3, radius=0.03, **PLAIN).values
    f = gradients.log_probability(NETWORK, 1)
    for k, image in enumerate(X):
        point, total = image, torch.zeros_like(image)
        for _ in range(3):
            slope = gradients.gradient(f, point)
            moved = (point + 0.01 * slope.sign()).clamp(0, 1)
            total += slope / slope.abs().mean() * (moved - point)
            point = moved
        toys.assert_same(values[k], total)


def test_attexplore_is_non_negative():
    values = xplain.attribute(CLASSIFIER, X, "attexplore", steps=6, samples=3, radius=0.4).values
    assert values.min() >= 0
    assert values.max() > 0


def test_attexplore_linear_logit_closed_form():
    weight = torch.randn(2, 3, 15, 21, dtype=torch.float64)
    values = xplain.attribute(
        toys.classifier(toys.Linear(weight)), X, "attexplore", target=0, score="logit", steps=4, radius=0.04, **PLAIN
    ).values
    torch.testing.assert_close(values, (0.04 * weight[0].abs() / weight[0].abs().mean()).expand_as(values))


def test_cosine_basis_is_orthonormal():
    for side in (1, 2, 7, 10):
        basis = cosine_basis(side, X)
        torch.testing.assert_close(basis @ basis.T, torch.eye(side, dtype=torch.float64))


def test_attexplore_constant_model_gives_zero():
    model = toys.classifier(toys.Function(lambda x: x.new_ones(len(x), 3) + 0 * x.sum()))
    assert xplain.attribute(model, X, "attexplore", target=0, steps=2, samples=2).values.unique().tolist() == [0.0]


def test_attexplore_depends_on_seed_not_batch():
    def run(images, **options):
        return xplain.attribute(CLASSIFIER, images, "attexplore", target=1, steps=2, samples=3, **options).values

    torch.testing.assert_close(run(X), torch.cat([run(X[:1], batch_size=1), run(X[1:], batch_size=2)]))
    assert not torch.allclose(run(X), run(X, seed=1))
