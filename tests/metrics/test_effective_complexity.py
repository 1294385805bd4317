"""Effective complexity: the place where a curve first has a level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import value, with_output

X = toys.images(2)
MAPS = toys.images(2, seed=9) - 0.5
MODEL, _ = toys.with_pixels(toys.small_net(1, scale=15.0))


def measure(model=MODEL, images: Tensor = X, maps: Tensor = MAPS, target: int = 0, **options) -> xplain.Score:
    return xplain.measure(model, images, maps, "effective-complexity", target=target, **options)


def first_place(curve: list[float], level: float, *, rising: bool) -> float:
    """Return the first place on a curve that has the level, found on a grid of a million points."""
    places = np.linspace(0, 1, 1_000_001)
    values = np.interp(places, np.linspace(0, 1, len(curve)), curve)
    return float(places[np.argmax(values >= level if rising else values <= level)])


@pytest.mark.parametrize("tolerance", [0.05, 0.3])
@pytest.mark.parametrize("kind", ["insertion", "deletion"])
def test_place_is_read_from_the_curve(kind, tolerance):
    targets = MODEL(X).argmax(dim=1).tolist()
    options = {"steps": 16, "baseline": "mean", "target": targets}
    curves = xplain.measure(MODEL, X, MAPS, kind, **options).curve
    score = measure(curve=kind, tolerance=tolerance, **options)
    for i, curve in enumerate(curves.tolist()):
        level = (1 - tolerance) * curve[-1] if kind == "insertion" else tolerance * curve[0]
        if kind == "deletion" and min(curve) > level:
            assert score.values[i].isnan()
            assert bool(score.undefined["the score of the baseline is too high"][i])
        else:
            assert float(score.values[i]) == pytest.approx(
                first_place(curve, level, rising=kind == "insertion"), abs=2e-6
            )
    assert score.cost.forwards == 2 * 17


def test_linear_model():
    """The value is proportional to the number of pixels that are kept: 0.9 of them are sufficient and necessary."""
    model = with_output(value(torch.ones(3, 8, 10, dtype=torch.float64)), "none", 1)
    images = torch.full((1, 3, 8, 10), 0.5, dtype=torch.float64)
    for kind in ("insertion", "deletion"):
        assert float(measure(model, images, MAPS[:1], curve=kind, steps=80).values) == pytest.approx(0.9, abs=1e-9)
        assert float(measure(model, images, MAPS[:1], curve=kind, steps=80, tolerance=0.25).values) == pytest.approx(
            0.75
        )


def test_one_pixel_decides():
    """The value jumps from 0 to 1 with the pixel that is ranked first: between 0 and 1 of 80 steps."""
    weight = torch.zeros(3, 8, 10, dtype=torch.float64)
    weight[1, 3, 4] = 1
    model = with_output(value(weight), "none", 1)
    for kind in ("insertion", "deletion"):
        score = measure(model, X[:1], weight[None], curve=kind, steps=80)
        assert float(score.values) == pytest.approx(0.9 / 80, abs=1e-12)
        last = measure(model, X[:1], -weight[None], curve=kind, steps=80)
        assert float(last.values) == pytest.approx(79.9 / 80, abs=1e-12)


def test_constant_model():
    """No pixel is needed, and removing all of them does not change the value."""
    model = with_output(value(torch.zeros(3, 8, 10, dtype=torch.float64), 2.0), "none", 1)
    assert measure(model).values.tolist() == [0.0, 0.0]
    score = measure(model, curve="deletion")
    assert score.values.isnan().all()
    assert score.undefined["the score of the baseline is too high"].tolist() == [True, True]
    negative = with_output(value(torch.zeros(3, 8, 10, dtype=torch.float64), -2.0), "none", 1)
    score = measure(negative)
    assert score.values.isnan().all()
    assert score.undefined["the score of the image is not positive"].tolist() == [True, True]


def test_larger_tolerance_needs_fewer_pixels():
    values = torch.stack([measure(tolerance=tolerance).values for tolerance in (0.05, 0.1, 0.3, 0.6, 1.0)])
    assert (values[:-1] >= values[1:]).all()
    assert values[-1].tolist() == [0.0, 0.0]
