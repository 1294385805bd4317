"""Tests of RISE: against its definition, and its expectation on constant and linear models."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import rise as reference
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2)
MEAN = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand_as(X[0])


def masks_of(k: int, count: int, grid: int, keep: float, seed: int = 0) -> list[torch.Tensor]:
    """Return the masks of image k, from its random streams."""
    rng, numbers = Streams.of(X[k : k + 1], seed, "rise"), torch.arange(count)
    tall, wide = -(-8 // grid), -(-10 // grid)
    cells = rng.uniform(numbers, (grid, grid), torch.float64)[0] < keep
    down = rng.child("down").integers(numbers, (), tall)[0]
    across = rng.child("across").integers(numbers, (), wide)[0]
    return [reference.mask(cells[i].double().numpy(), int(down[i]), int(across[i]), 8, 10) for i in range(count)]


@pytest.mark.parametrize(("grid", "keep"), [(7, 0.5), (3, 0.2), (1, 0.9), (2, 1.0)])
@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_rise_equals_reference(grid, keep, baseline):
    attribution = xplain.attribute(CLASSIFIER, X, "rise", target=1, masks=9, grid=grid, keep=keep, baseline=baseline)
    fill = MEAN if baseline == "mean" else torch.zeros_like(X[0])
    for k, image in enumerate(X):
        expected = reference.rise(gradients.probability(NETWORK, 1), image, fill, masks_of(k, 9, grid, keep), keep)
        torch.testing.assert_close(attribution.values[k], expected)


def test_masks_have_mean_keep():
    masks = torch.stack(masks_of(0, 400, 3, 0.3))
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.max() > 0.99
    torch.testing.assert_close(masks.mean(dim=0), torch.full((8, 10), 0.3, dtype=torch.float64), atol=0.08, rtol=0)
    assert masks.mean() == pytest.approx(0.3, abs=0.02)


def test_rise_constant_model_closed_form():
    """RISE is not centered: the map is the value times the mean mask, not zero."""
    model = toys.classifier(toys.Function(lambda x: x.new_zeros(len(x), 4)))
    attribution = xplain.attribute(model, X, "rise", target=2, masks=50, grid=3)
    for k in range(2):
        mean = torch.stack(masks_of(k, 50, 3, 0.5)).mean(dim=0)
        torch.testing.assert_close(attribution.values[k, 0], 0.25 * mean / 0.5)


def test_rise_linear_model_closed_form():
    """S(λ) = 1/p Σ_j w_j x_j E[M_j M_λ], with the mean over the drawn masks."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    attribution = xplain.attribute(
        toys.classifier(toys.Linear(weight)),
        X,
        "rise",
        target=0,
        score="logit",
        masks=40,
        grid=4,
        keep=0.4,
        baseline="black",
    )
    masks = torch.stack(masks_of(1, 40, 4, 0.4)).flatten(1)
    expected = (masks.T @ masks / 40 / 0.4) @ (weight[0] * X[1]).sum(dim=0).flatten()
    torch.testing.assert_close(attribution.values[1, 0].flatten(), expected)


def test_rise_highlights_relevant_pixels():
    """The score is the brightness of one corner."""
    model = toys.classifier(toys.Function(lambda x: torch.stack([x[:, :, :3, :3].mean((1, 2, 3))] * 2, dim=1)))
    x = torch.ones(1, 3, 12, 12, dtype=torch.float64)
    values = xplain.attribute(model, x, "rise", target=0, score="logit", masks=600, grid=4, baseline="black").values[
        0, 0
    ]
    assert values[:3, :3].mean() > values[6:, 6:].mean() + 0.1


def test_rise_depends_on_seed():
    maps = [xplain.attribute(CLASSIFIER, X, "rise", masks=5, seed=seed).values for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
