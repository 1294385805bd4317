"""SaCo against a literal double loop, in closed form, and for controls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import value, with_output
from tests.reference import saco as reference
from xplain.core.errors import UsageError

X = toys.images(2)
MAPS = toys.images(2, seed=9) - 0.5
MODEL, LOGITS = toys.with_pixels(toys.small_net(1, scale=15.0))
RAMP = torch.arange(80, 0, -1, dtype=torch.float64).reshape(1, 1, 8, 10)  # pixels in raster order


def measure(model=MODEL, images: Tensor = X, maps: Tensor = MAPS, target=0, **options) -> xplain.Score:
    return xplain.measure(model, images, maps, "saco", target=target, **options)


def linear(effects: Tensor) -> tuple[xplain.Classifier, Tensor]:
    """Return a model whose value falls by ``effects`` (80,) without each pixel, and an image; removed pixels become black."""
    weight = torch.zeros(3, 8, 10, dtype=torch.float64)
    weight[0] = effects.double().reshape(8, 10)
    return with_output(value(weight), "none", 1), torch.ones(1, 3, 8, 10, dtype=torch.float64)


@pytest.mark.parametrize("groups", [2, 7, 10])
@pytest.mark.parametrize("ties", ["zero", "agree"])
def test_saco_matches_reference(groups, ties):
    targets = [1, 3]
    score = measure(target=targets, groups=groups, ties=ties)
    for i, target in enumerate(targets):
        expected = reference.saco(
            lambda image, target=target: float(LOGITS(image[None]).detach().softmax(1)[0, target]),
            X[i],
            MAPS[i],
            groups,
            agree=ties == "agree",
        )
        assert float(score.values[i]) == pytest.approx(expected, abs=1e-12)
    assert (score.cost.forwards, score.curve) == (2 * groups, None)


def test_effects_that_follow_the_salience():
    model, image = linear(RAMP.flatten())
    for sign in (1, -1):
        assert float(measure(model, image, sign * RAMP, baseline="black").values) == sign
    assert float(measure(model, image, -RAMP, baseline="black", absolute=True).values) == 1


def test_one_exchanged_pair_of_groups():
    """With salience 10 .. 1, only the pair of groups 1 and 2 disagrees: 1 - 2·1/165, where Σ_{i<j} (j - i) = 165."""
    effects = torch.arange(10, 0, -1).double()
    model, image = linear(effects[[1, 0, *range(2, 10)]].repeat_interleave(8))
    maps = effects.repeat_interleave(8).reshape(1, 1, 8, 10)
    assert float(measure(model, image, maps, baseline="black").values) == pytest.approx(1 - 2 / 165, abs=1e-12)
    # as salience 10², 9², ..., where the weights are different; scale and offset do not matter
    squares = maps**2
    total = sum(i**2 - j**2 for i in range(2, 11) for j in range(1, i))
    expected = 1 - 2 * (100 - 81) / total
    for other in (squares, 1e300 * squares, 3 * squares + 7):
        assert float(measure(model, image, other, baseline="black").values) == pytest.approx(expected, abs=1e-12)


def test_ties_of_a_constant_model():
    model, image = linear(torch.zeros(80))
    assert measure(model, image, RAMP).values.tolist() == [0.0]
    assert measure(model, image, RAMP, ties="agree").values.tolist() == [1.0]


def test_image_mean_is_of_each_channel():
    """An image of one color per channel stays the same, so that all effects are equal."""
    flat = torch.tensor([0.25, 0.75, 0.5], dtype=torch.float64)[None, :, None, None].expand(1, 3, 8, 10)
    assert measure(images=flat, maps=RAMP).values.tolist() == [0.0]
    assert measure(images=flat, maps=RAMP, baseline="black").values.abs().item() > 0.1


def test_constant_map_is_undefined():
    maps = torch.full((2, 1, 8, 10), 0.1, dtype=torch.float64)
    maps[1, 0, 0, 0] += 1e-9
    score = measure(maps=maps)
    assert score.values.isnan().tolist() == [True, False]
    assert score.undefined["the map is constant"].tolist() == [True, False]


def test_random_maps():
    """Mean 0 and standard deviation 0.33, as of equally spaced salience in a random order."""
    generator = torch.Generator().manual_seed(0)
    model, _ = linear(torch.rand(80, generator=generator))
    images = torch.rand(400, 3, 8, 10, dtype=torch.float64, generator=generator)
    uniform = torch.rand(400, 1, 8, 10, dtype=torch.float64, generator=generator)
    for maps in (uniform, xplain.attribute(model, images, "random").values):
        values = measure(model, images, maps).values
        assert float(values.mean()) == pytest.approx(0, abs=4 * 0.33 / 20)
        assert float(values.std()) == pytest.approx(0.33, abs=0.03)


@pytest.mark.parametrize("method", ["sobel", "center"])
def test_controls_score_zero_on_independent_effects(method):
    """Over 400 models that weigh single pixels at random."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(400, 3, 8, 10, dtype=torch.float64, generator=generator) - 0.5
    model = with_output(toys.Linear(weight), "none", 400)
    images = toys.images(1).expand(400, -1, -1, -1)
    targets = list(range(400))
    maps = xplain.attribute(model, images, method, target=targets).values
    values = measure(model, images, maps, target=targets).values
    assert float(values.mean()) == pytest.approx(0, abs=0.1)
    assert float(values.std()) > 0.2


def test_too_many_groups():
    with pytest.raises(UsageError, match=r"^saco: groups=81 exceeds the number of pixels, 80; use fewer groups$"):
        measure(groups=81)
