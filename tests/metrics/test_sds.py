"""The single deletion score against a literal loop and scipy, and in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import value, with_output
from tests.reference import sds as reference
from xplain.core.errors import UsageError

X = toys.images(2, 9, 11)
MAPS = toys.images(2, 9, 11, seed=9) - 0.5
MODEL, LOGITS = toys.with_pixels(toys.small_net(1, scale=15.0))
MEAN = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand(3, 9, 11)
WEIGHT = torch.randn(3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def measure(model=MODEL, images: Tensor = X, maps: Tensor = MAPS, target=0, **options) -> xplain.Score:
    return xplain.measure(model, images, maps, "sds", target=target, **options)


@pytest.mark.parametrize(("grid", "score"), [(4, "logit"), (3, "prob"), (9, "log-prob")])
def test_sds_matches_reference(grid, score):
    read = {"logit": lambda z: z, "prob": lambda z: z.softmax(0), "log-prob": lambda z: z.log_softmax(0)}[score]
    targets = [1, 3]
    result = measure(target=targets, grid=grid, score=score)
    for i, target in enumerate(targets):

        def compute(image: Tensor, target: int = target) -> float:
            return float(read(LOGITS(image[None])[0].detach())[target])

        assert float(result.values[i]) == pytest.approx(reference.sds(compute, X[i], MAPS[i], MEAN, grid), abs=1e-12)
    assert (result.cost.forwards, result.curve) == (2 * grid**2, None)


def test_exact_attributions_of_a_linear_model():
    """A = D for φ = w (x - mean); the gradient w is not the effect of a deletion."""
    model, _ = toys.with_pixels(toys.Linear(WEIGHT[None].repeat(2, 1, 1, 1)))
    std = torch.tensor(toys.STD, dtype=torch.float64)[:, None, None]
    exact = WEIGHT * (X - MEAN) / std
    assert measure(model, maps=exact).values.tolist() == pytest.approx([1, 1], abs=1e-12)
    assert measure(model, maps=1e300 * exact).values.tolist() == pytest.approx([1, 1], abs=1e-12)
    assert measure(model, maps=-exact).values.tolist() == pytest.approx([-1, -1], abs=1e-12)
    assert measure(model, maps=(WEIGHT / std).expand_as(X)).values.max() < 0.9


def test_cells_that_tie_share_their_mean_rank():
    """Of four cells, the map ranks (1.5, 1.5, 3.5, 3.5) and the model (1, 2, 3, 4): the correlation is 2/√5."""
    weight = torch.zeros(3, 2, 2, dtype=torch.float64)
    weight[0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    model = with_output(value(weight), "none", 1)
    maps = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)[None, None]
    images = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    score = measure(model, images, maps, grid=2, baseline="black")
    assert float(score.values) == pytest.approx(2 / 5**0.5, abs=1e-12)


def test_undefined():
    reasons = ("the map's sums do not vary between cells", "the score does not vary between cells")
    flat = measure(maps=torch.full((2, 1, 8, 12), 0.1, dtype=torch.float64), images=toys.images(2, 8, 12))
    assert flat.values.isnan().all()
    assert [flat.undefined[reason].tolist() for reason in reasons] == [[True, True], [False, False]]
    dead = measure(with_output(value(0 * WEIGHT, 2.0), "none", 1))
    assert dead.values.isnan().all()
    assert [dead.undefined[reason].tolist() for reason in reasons] == [[False, False], [True, True]]
    assert measure(grid=1).values.isnan().all()


@pytest.mark.parametrize("method", ["random", "sobel", "center"])
def test_controls_score_zero_on_average(method):
    """The standard deviation over independent models is 1/√15 for 16 cells."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.rand(300, 3, 8, 12, dtype=torch.float64, generator=generator) - 0.5
    model = with_output(toys.Linear(weight), "none", 300)
    images = toys.images(300, 8, 12)
    targets = list(range(300))
    maps = xplain.attribute(model, images, method, target=targets).values
    values = measure(model, images, maps, target=targets).values
    assert float(values.mean()) == pytest.approx(0, abs=4 * 0.258 / 300**0.5)
    assert float(values.std()) == pytest.approx(0.258, abs=0.04)


def test_too_fine_grid():
    with pytest.raises(UsageError, match=r"^sds: grid=10 exceeds the image size of 9 x 11 pixels; use a smaller grid$"):
        measure(grid=10)
