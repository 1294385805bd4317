"""Controls have the values that theory predicts, and a method that ignores the seed, the image or the weights is found out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import xplain
from tests.conftest import SAMPLES
from tests.helpers import toys
from xplain.core.array_store import ArrayStore
from xplain.core.registry import METHODS, MethodSpec
from xplain.core.rng import Streams
from xplain.core.run_store import map_digest
from xplain.core.types import Attribution
from xplain.reports.repeated_maps import compare_images

SIDE = 224
PHOTO = xplain.read_image(SAMPLES / "cat.jpg", size=SIDE)[None].double()
COLORS = toys.classifier(toys.Function(lambda x: x.mean(dim=(2, 3))))
NET, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
FIXED = torch.randn((1, 8, 10), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def planted(monkeypatch):
    """Return a function that registers a method for the duration of a test."""

    def register(name: str, function) -> None:
        monkeypatch.setitem(METHODS._specs, name, MethodSpec(name=name, function=function, access="outputs"))

    return register


@pytest.mark.parametrize(
    ("method", "draws", "noise"),
    [("random", (0.1, 4), (1, 0)), ("sobel", (1, 0), (0.95, 0.05)), ("center", (1, 0), (1, 0))],
)
def test_controls_have_the_predicted_stability(method, draws, noise):
    """Of 224 x 224 pixels. draws: the value, and how many standard deviations it may be away; noise: the value and its tolerance."""
    n, k = SIDE**2, round(0.1 * SIDE**2)
    deviation = math.sqrt(k * 0.1 * 0.9 * (n - k) / (n - 1)) / k
    assert deviation == pytest.approx(0.0040, abs=1e-4)
    result = xplain.attribute(COLORS, PHOTO, method, target=0, stability="full").stability.describe(0)
    value, tolerance = draws
    assert result["draws"]["top10"] == pytest.approx(value, abs=tolerance * deviation / math.sqrt(4))
    assert result["draws"]["spearman"] == pytest.approx(0 if method == "random" else 1, abs=4 / math.sqrt(n - 1))
    assert result["rounding"]["top10"] == pytest.approx(1, abs=1e-3)
    assert result["noise"]["top10"] == pytest.approx(noise[0], abs=noise[1])
    assert result["noise"].get("constant", False) == (method != "sobel")


def test_method_that_ignores_the_seed(planted):
    """It draws, but the same numbers for every seed: its map stays where that of a method that uses the seed does not."""

    def ignore_seed(oracle, x: Tensor, y: Tensor, *, rng: Streams) -> Attribution:
        rng.uniform(torch.zeros(1), (1, 1, 1), x.dtype)
        return Attribution(Streams.of(x, 0, "fixed").uniform(torch.zeros(1), (1, *x.shape[2:]), x.dtype)[:, 0])

    planted("ignore-seed", ignore_seed)
    for method, expected in (("ignore-seed", 1), ("random", 0.1)):
        maps = xplain.attribute(NET, X, method).values
        score = xplain.measure(NET, X, maps, "stability-draws", method=method)
        assert score.values.tolist() == pytest.approx([expected] * 3, abs=0 if expected == 1 else 0.2)
        record = xplain.attribute(NET, X, method, stability="quick").stability.describe(0)
        assert record["draws"].get("constant", False) == (method == "ignore-seed")


def test_method_that_ignores_the_image(planted, tmp_path):
    """Its map survives noise bit for bit, and the maps of different images overlap completely."""
    planted("ignore-image", lambda oracle, x, y: Attribution(FIXED.expand(len(x), -1, -1, -1).clone()))
    store, overlaps, noise = ArrayStore(tmp_path / "maps", "attribution"), {}, {}
    for method in ("ignore-image", "saliency"):
        described = {"method": method, "params": {}, "score": "logit", "method_version": 1}
        result = xplain.attribute(NET, X, method, stability="full")
        for i, values in enumerate(result.values):
            store.save(str(i), method, map_digest(described), values.float().numpy(), {})
        overlaps[method] = compare_images(tmp_path, described, method, ["0", "1", "2"])["mean"]
        noise[method] = [result.stability.describe(i)["noise"].get("constant", False) for i in range(3)]
        ris = xplain.measure(NET, X, result.values, "ris", method=method, samples=3)
        assert (ris.values == 0).tolist() == [method == "ignore-image"] * 3
    assert overlaps["ignore-image"] == 1
    assert overlaps["saliency"] < 0.7
    assert noise == {"ignore-image": [True] * 3, "saliency": [False] * 3}


@pytest.mark.parametrize("metric", ["parameter-randomisation", "smprt", "emprt"])
def test_method_that_ignores_the_weights(planted, metric):
    """Its map is the same for random weights: the similarity is 1, and the change of its entropy 0."""
    planted("ignore-weights", lambda oracle, x, y: Attribution((x - x.mean()).sum(dim=1, keepdim=True)))
    expected = 0 if metric == "emprt" else 1
    scores = {}
    for method in ("ignore-weights", "sobel", "saliency"):
        maps = xplain.attribute(NET, X, method).values
        scores[method] = xplain.measure(NET, X, maps, metric, method=method).values.tolist()
    assert scores["ignore-weights"] == pytest.approx([expected] * 3)
    if metric != "smprt":  # which adds noise to the image
        assert scores["sobel"] == pytest.approx([expected] * 3)
    assert np.abs(np.array(scores["saliency"]) - expected).min() > 0.005
