"""eMPRT against NumPy's histogram and scipy's entropy, in closed form, and for controls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

import xplain
from tests.helpers import toys

NET = toys.classifier(toys.small_net(1))
X = toys.images(3)
Y = [2, 0, 4]
MAPS = xplain.attribute(NET, X, "saliency", target=Y).values


def measure(method="saliency", maps: Tensor = MAPS, **options) -> xplain.Score:
    return xplain.measure(NET, X[: len(maps)], maps, "emprt", method=method, target=Y[: len(maps)], **options)


def literal_entropy(attribution: Tensor) -> float:
    return float(entropy(np.histogram(attribution.sum(dim=0).numpy(), 100)[0]))


def two_values(share: float) -> Tensor:
    """Return a map (1, 1, 8, 10) of which this share of the pixels is -2, and the others 5."""
    return torch.where(torch.arange(80) < 80 * share, -2.0, 5.0).double().reshape(1, 1, 8, 10)


def test_values_match_numpy():
    networks = []

    def record(classifier, images: Tensor, target: Tensor) -> Tensor:
        networks.append(xplain.attribute(classifier, images, "saliency", target=target.tolist()).values)
        return networks[-1]

    score = measure(record, networks=3)
    for i in range(3):
        original = literal_entropy(MAPS[i])
        expected = [(literal_entropy(maps[i]) - original) / original for maps in networks]
        assert score.curve[i].tolist() == pytest.approx(expected, abs=1e-12)
        assert float(score.values[i]) == pytest.approx(sum(expected) / 3, abs=1e-12)
    assert len({round(float(maps.sum()), 9) for maps in networks}) == 3  # different networks
    plain = measure(networks=3)
    toys.assert_same(plain.curve, score.curve)
    assert (plain.cost.forwards, plain.cost.backwards) == (9, 9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_entropy_of_two_values_and_of_a_ramp(share):
    """-p ln p - (1 - p) ln(1 - p), and ln 80 of 80 values in bins of their own."""
    ramp = torch.arange(80, dtype=torch.float64).reshape(1, 1, 8, 10)
    nats = -share * math.log(share) - (1 - share) * math.log(1 - share)
    score = measure(lambda c, x, y: ramp, two_values(share), networks=2)
    assert float(score.values) == pytest.approx(math.log(80) / nats - 1, abs=1e-12)
    for other in (1e300 * ramp, 3 - 7 * ramp, ramp.flip(3)):
        again = measure(lambda c, x, y, other=other: other, two_values(share), networks=2)
        toys.assert_same(again.values, score.values)


@pytest.mark.parametrize("method", ["random", "sobel", "center"])
def test_controls_ignore_the_weights(method):
    maps = xplain.attribute(NET, X, method, target=Y).values
    assert measure(method, maps, networks=2).values.tolist() == [0, 0, 0]


def test_unchanged_network_scores_zero(monkeypatch):
    changed = measure(networks=1).values
    monkeypatch.setattr("xplain.models.randomization.reinitialize", lambda module, seed: None)
    assert measure(networks=1).values.abs().max() < 1e-12
    assert changed.abs().min() > 1e-5


def test_constant_maps_are_undefined():
    maps = MAPS.clone()
    maps[1] = 3.0
    vanished = MAPS.clone()
    vanished[2] = 0
    results = iter([MAPS, vanished])
    score = measure(lambda *_: next(results), maps, networks=2)
    assert score.values.isnan().tolist() == [False, True, True]
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {
        "the map is constant": [False, True, False],
        "the map of a random network is constant": [False, False, True],
    }


def test_networks_depend_on_the_seed_only():
    both = measure(networks=2)
    alone = xplain.measure(NET, X[1:2], MAPS[1:2], "emprt", method="saliency", target=Y[1], networks=1)
    toys.assert_same(alone.curve[0], both.curve[1, :1])
    assert (measure(seed=1, networks=1).curve - both.curve[:, :1]).abs().min() > 1e-6
