"""Sparseness and complexity: closed forms, literal code and scipy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

import xplain
from tests.helpers import toys

N = 80  # pixels
X = toys.images(1)
MODEL = toys.classifier(toys.small_net(1))
GENERATOR = torch.Generator().manual_seed(0)


def compute_value(metric: str, values: Tensor, **options) -> float:
    """Return the metric of a map with these N values."""
    maps = values.double().reshape(1, 1, 8, 10)
    return float(xplain.measure(MODEL, X, maps, metric, target=0, **options).values)


def equal_pixels(k: int) -> Tensor:
    """Return k pixels of -3 among zeros, in a random order."""
    return -3.0 * (torch.randperm(N, generator=GENERATOR) < k)


@pytest.mark.parametrize("k", [1, 7, N])
def test_equal_pixels(k):
    assert compute_value("sparseness", equal_pixels(k)) == pytest.approx(1 - k / N, abs=1e-12)
    assert compute_value("complexity", equal_pixels(k)) == pytest.approx(k / N, abs=1e-12)
    assert compute_value("complexity", equal_pixels(k), unit="pixels") == pytest.approx(k, abs=1e-9)
    assert compute_value("complexity", equal_pixels(k), unit="nats") == pytest.approx(math.log(k), abs=1e-12)


def test_ramp():
    ramp = torch.arange(1, N + 1)[torch.randperm(N, generator=GENERATOR)]
    assert compute_value("sparseness", ramp) == pytest.approx((N - 1) / (3 * N), abs=1e-12)


def test_values_match_literal_code():
    maps = torch.randn(1, 3, 8, 10, dtype=torch.float64, generator=GENERATOR)
    magnitudes = maps.sum(dim=1).abs().flatten().tolist()
    gini = sum((2 * i - N - 1) * a for i, a in enumerate(sorted(magnitudes), 1)) / (N * sum(magnitudes))
    score = xplain.measure(MODEL, X, maps, "sparseness", target=0)
    assert float(score.values) == pytest.approx(gini, abs=1e-12)
    assert (score.cost.forwards, score.curve) == (0, None)
    nats = xplain.measure(MODEL, X, maps, "complexity", target=0, unit="nats").values
    assert float(nats) == pytest.approx(float(entropy(magnitudes)), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1.7e308, -1.0])
def test_scale_does_not_matter(scale):
    values = torch.rand(N, dtype=torch.float64, generator=GENERATOR)
    for metric in ("sparseness", "complexity"):
        assert compute_value(metric, scale * values) == pytest.approx(compute_value(metric, values), abs=1e-12)


def test_uniform_noise():
    """1/3 and ln N + 1/2 - ln 2 with one channel; 0.1897 and ln N - 0.0589 with three, as of the control ``random``."""
    model = toys.classifier(toys.Function(lambda x: x.mean(dim=(2, 3))))
    images = torch.full((1, 3, 200, 200), 0.5, dtype=torch.float64)
    noise = torch.rand(1, 1, 200, 200, dtype=torch.float64, generator=GENERATOR)
    control = xplain.attribute(model, images, "random", target=0).values
    expected = {"sparseness": (1 / 3, 0.1897), "complexity": (math.sqrt(math.e) / 2, math.exp(-0.0589))}
    for metric, values in expected.items():
        for maps, value in zip((noise, control), values, strict=True):
            measured = xplain.measure(model, images, maps, metric, target=0).values
            assert float(measured) == pytest.approx(value, abs=0.006)


@pytest.mark.parametrize("metric", ["sparseness", "complexity"])
def test_zero_map_is_undefined(metric):
    maps = torch.zeros(2, 3, 8, 10, dtype=torch.float64)
    maps[1, 0, 0, 0] = 5e-324
    score = xplain.measure(MODEL, toys.images(2), maps, metric, target=0)
    assert score.values.isnan().tolist() == [True, False]
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {"the map is zero": [True, False]}
    assert float(score.values[1]) == pytest.approx(1 - 1 / N if metric == "sparseness" else 1 / N, abs=1e-12)
