"""Tests of ISA: against a literal version for one image, and of its rounds."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.isa import isa
from xplain.core.registry import METHODS
from xplain.core.rng import Streams

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2)


def noises_of(k: int, rounds: int, steps: dict[str, int], noise: float) -> dict:
    rng = Streams.of(X[k : k + 1], 0, "isa")
    return {
        way: [
            list(noise * rng.child(way).normal(torch.arange(r * count, (r + 1) * count), (3, 8, 10), torch.float64)[0])
            for r in range(rounds)
        ]
        for way, count in steps.items()
    }


@pytest.mark.parametrize(("block", "factor"), [(100, 1.3), (60, 0.5), (500, 1.0)])
@pytest.mark.parametrize("score", ["log-prob", "logit"])
def test_isa_equals_reference(score, block, factor):
    steps = {"ascent": 3, "descent": 2}
    attribution = xplain.attribute(
        CLASSIFIER,
        X,
        "isa",
        target=1,
        score=score,
        block=block,
        step_size=0.01,
        noise=0.05,
        penalty=0.02,
        factor=factor,
        **steps,
    )
    for k, image in enumerate(X):
        noises = noises_of(k, -(-240 // block), steps, 0.05)
        f = gradients.SCORES[score](NETWORK, 1)
        expected = isa(f, image, noises, block=block, step_size=0.01, penalty=0.02, factor=factor)
        toys.assert_same(attribution.values[k], expected)


def test_isa_removes_each_value_once():
    values = xplain.attribute(CLASSIFIER, X, "isa", block=50, ascent=2, descent=2, factor=0.9).values
    assert values.min() >= 0
    assert values.max() <= 4 + 0.9
    for image_values in values:
        assert image_values.flatten().floor().long().bincount().tolist() == [50, 50, 50, 50, 40]


def test_isa_removes_black_values_first():
    x = X.clone()
    x[:, :, :2] = 0  # 60 values
    values = xplain.attribute(CLASSIFIER, x, "isa", block=60, ascent=2, descent=2, factor=0.9).values
    assert values[:, :, :2].unique().tolist() == [0.0]
    assert (values[:, :, 2:] >= 1).all()


def test_isa_of_black_image_is_finite():
    assert xplain.attribute(CLASSIFIER, X * 0, "isa", block=100, ascent=2, descent=2).values.isfinite().all()


def test_isa_with_single_step_is_finite():
    assert xplain.attribute(CLASSIFIER, X, "isa", block=100, ascent=1, descent=1).values.isfinite().all()


def test_isa_cost_equals_claim():
    spec = METHODS.get("isa")
    assert spec.cost(**spec.resolve({})) == (31 * 16, 31 * 16)
    cost = xplain.attribute(CLASSIFIER, X, "isa", block=100, ascent=3, descent=2).cost
    assert (cost.forwards, cost.backwards) == (2 * 3 * 5, 2 * 3 * 5)
