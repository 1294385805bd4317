"""Stability metrics: closed forms, literal references and planted methods."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.options import RenderOptions
from xplain.core.registry import METHODS, MethodSpec
from xplain.core.rng import Streams, seed_of
from xplain.core.stability import Look
from xplain.core.types import Attribution
from xplain.data.jpeg import compress_as_jpeg
from xplain.metrics.repeats import FEW_PIXELS, LOST, compare_repeats
from xplain.reports.render import visible_part

SIZE = 12
WEIGHT = torch.randn((2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(3))
LINEAR = toys.classifier(toys.Linear(WEIGHT))
X = torch.rand((2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(4))
METRICS = ("stability-draws", "stability-rounding", "stability-noise")


def literal_overlap(a: Tensor, b: Tensor) -> float:
    """Return the overlap of the highest tenth, by sorting."""
    maps = [np.argsort(-values.sum(dim=0).double().numpy().ravel(), kind="stable") for values in (a, b)]
    count = round(0.1 * len(maps[0]))
    return len(np.intersect1d(maps[0][:count], maps[1][:count])) / count


def score(metric: str, method: str, images: Tensor = X, classifier=LINEAR, **options) -> xplain.Score:
    attribution = xplain.attribute(classifier, images, method, target=0)
    return xplain.measure(classifier, images, attribution.values, metric, target=0, method=method, **options)


@pytest.fixture
def planted(monkeypatch):
    """Return a function that registers a method for the duration of a test."""

    def register(name: str, function) -> None:
        monkeypatch.setitem(METHODS._specs, name, MethodSpec(name=name, function=function, access="outputs"))

    return register


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "integrated-gradients", "center"])
@pytest.mark.parametrize("metric", METRICS)
def test_linear_network_keeps_its_maps(method, metric):
    """In float32, where rounding is tested against float64 as well."""
    result = score(metric, method)
    correlation = score(metric, method, similarity="spearman").values
    expected = 1 if (metric, method) != ("stability-noise", "input-x-gradient") else pytest.approx(1, abs=0.1)
    assert result.values.tolist() == [expected] * 2
    assert correlation.tolist() == pytest.approx([1, 1], abs=0.01 if metric == "stability-noise" else 1e-9)


def test_draws_match_literal_repeats():
    """The mean of overlaps with the maps of four other seeds, sorted by NumPy."""
    result = score("stability-draws", "random")
    reported = xplain.attribute(LINEAR, X, "random", target=0).values
    seeds = [seed_of(0, "stability", k) for k in range(4)]
    repeats = [
        Streams.of(X, seed, "random").uniform(torch.zeros(1), tuple(X.shape[1:]), X.dtype)[:, 0] for seed in seeds
    ]
    for i in range(2):
        overlaps = [literal_overlap(reported[i], repeated[i]) for repeated in repeats]
        assert result.curve[i].tolist() == pytest.approx(overlaps)
        assert float(result.values[i]) == pytest.approx(sum(overlaps) / 4)


def test_random_map_has_overlap_by_chance():
    """Within four standard deviations of the hypergeometric distribution; a repeat of the same seed would score 1."""
    x = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    large = toys.classifier(toys.Function(lambda images: images.sum(dim=(2, 3))[:, :2]))
    attribution = xplain.attribute(large, x.double(), "random", target=0)
    n, k = 4096, 410
    deviation = math.sqrt(k * 0.1 * 0.9 * (n - k) / (n - 1)) / k
    result = {
        metric: float(xplain.measure(large, x.double(), attribution.values, metric, target=0, method="random").values)
        for metric in METRICS
    }
    assert result["stability-draws"] == pytest.approx(0.1, abs=4 * deviation)
    assert (result["stability-rounding"], result["stability-noise"]) == (1, 1)
    rho = xplain.measure(
        large, x.double(), attribution.values, "stability-draws", target=0, method="random", similarity="spearman"
    )
    assert float(rho.values) == pytest.approx(0, abs=4 / math.sqrt(n - 1))


def test_overlap_of_noisy_map_matches_table():
    """A map plus noise has the correlation 1 / (1 + σ²) with its repeat, and the overlap of jointly normal maps."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn((1, 1, 224, 224), generator=generator, dtype=torch.float64)
    for r, expected in ((0.5, 0.32), (0.8, 0.56), (0.95, 0.78)):
        sigma = math.sqrt(1 / r - 1)
        drawn = torch.randn((2, 1, 224, 224), generator=generator, dtype=torch.float64) * sigma
        result = compare_repeats(base + drawn[:1], [base + drawn[1:]])
        assert float(result.top10) == pytest.approx(expected, abs=0.02)


def test_scale_of_a_map_does_not_count(planted):
    def scaled(oracle, x: Tensor, y: Tensor, *, rng: Streams) -> Attribution:
        factor = rng.uniform(torch.zeros(1), (1, 1, 1), x.dtype)[:, 0] + 0.5
        return Attribution(x * 0 + WEIGHT[0].to(x) * factor)

    planted("scaled", scaled)
    result = score("stability-draws", "scaled")
    assert result.values.tolist() == [1, 1]
    assert score("stability-draws", "scaled", similarity="spearman").values.tolist() == pytest.approx([1, 1])
    assert not torch.equal(
        xplain.attribute(LINEAR, X, "scaled").values, xplain.attribute(LINEAR, X, "scaled", seed=1).values
    )


@pytest.mark.parametrize(("clean", "noisy", "kept"), [(0, 5.0, 0), (2.99, 3.01, 0), (0, 2.0, 0), (0, 0.1, 4)])
def test_noise_must_keep_the_prediction(clean, noisy, kept):
    """Any noise changes the logit of the other class: the class changes, with the probability or not, or the probability only."""

    def logits(x: Tensor) -> Tensor:
        other = clean + (noisy - clean) * ((x - 0.5).abs().amax(dim=(1, 2, 3)) * 1e9).clamp(max=1)
        return torch.stack([torch.full_like(other, 3.0), other], dim=1)

    x = torch.full((1, 3, 4, 5), 0.5, dtype=torch.float64)
    classifier = toys.classifier(toys.Function(logits))
    attribution = xplain.attribute(classifier, x, "center", target=0, stability="full")
    result = xplain.measure(classifier, x, attribution.values, "stability-noise", target=0, method="center")
    record = attribution.stability.describe(0)
    assert record["noise"]["kept"] == kept
    if kept:
        assert (result.values.tolist(), record["noise"]["top10"], record["warnings"]) == ([1], 1, [])
        return
    assert result.values.isnan().tolist() == [True]
    assert [reason for reason, mask in result.undefined.items() if mask.any()] == [LOST]
    assert (record["noise"]["top10"], record["noise"]["undefined"]) == (None, LOST)
    assert record["warnings"] == ["the prediction changes under 4 of 4 small changes of the image"]


def test_undefined_maps_have_reasons():
    flat, sparse, ramp = torch.zeros(1, 1, 5, 8), torch.zeros(1, 1, 5, 8), torch.arange(40.0).reshape(1, 1, 5, 8)
    sparse[0, 0, 2, :3] = 1.0
    for own, other, reason in (
        (flat, ramp, "the map is zero"),
        (flat + 2, ramp, "the map is constant"),
        (ramp, flat, "the map of a repeat is constant"),
        (ramp * math.nan, ramp, "the map or a repeat is not finite"),
        (sparse, sparse, FEW_PIXELS),
    ):
        result = compare_repeats(own, [other])
        assert result.reason(0) == reason
        assert bool(result.top10.isnan())
        assert bool(result.spearman.isnan()) == (reason != FEW_PIXELS)
    plateau = (ramp >= 20).float()  # 20 pixels tie at the cut of 4
    entry = compare_repeats(plateau, [plateau]).describe(0)
    assert (entry["top10"], entry["ties"], entry["constant"]) == (1, 20, True)


def test_jpeg_noise_is_one_compressed_image():
    """The map of the image that Pillow compresses with quality 90; a gray image has one channel."""
    image = (torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    stream = io.BytesIO()
    Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(stream, "JPEG", quality=90)
    decoded = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)[None] / 255
    toys.assert_same(compress_as_jpeg(image, 90), decoded)
    assert float((decoded - image).abs().max()) > 0.05
    classifier = toys.classifier(
        toys.Function(lambda x: torch.stack([x.sum(dim=(1, 2, 3)) + 1e4, x.sum(dim=(1, 2, 3))], 1))
    )
    maps = xplain.attribute(classifier, image.double(), "sobel", target=0).values
    repeated = xplain.attribute(classifier, decoded.double(), "sobel", target=0).values
    result = xplain.measure(
        classifier, image.double(), maps, "stability-noise", target=0, method="sobel", noise="jpeg", repeats=7
    )
    assert result.values.tolist() == pytest.approx([literal_overlap(maps[0], repeated[0])])
    assert 0 < float(result.values) < 1
    assert compress_as_jpeg(image[:, :1], 90).shape == (1, 1, 16, 16)
    with pytest.raises(xplain.XplainError, match="images with 4 channels cannot be stored as JPEG; use noise=uniform"):
        compress_as_jpeg(torch.zeros(1, 4, 8, 8), 90)


@pytest.mark.parametrize("reduce", ["sum", "mean", "abs-sum", "max"])
@pytest.mark.parametrize("sign", ["positive", "negative", "absolute", "signed"])
def test_look_ranks_what_pictures_show(reduce, sign):
    """The highest tenth is that of the values that are drawn."""
    values = torch.randn((2, 3, 10, 10), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = RenderOptions(sign=sign, reduce=reduce)
    look = Look.of(reduce, sign)
    drawn = np.stack([visible_part(image, options) for image in values.numpy()])
    toys.assert_same(look.apply(values), torch.from_numpy(drawn))
    result = compare_repeats(values[:1], [values[1:]], look=look)
    tops = [set(np.argsort(-part.ravel(), kind="stable")[:10]) for part in drawn]
    assert float(result.top10) == pytest.approx(len(tops[0] & tops[1]) / 10)
    assert str(look) == f"{reduce}, {'absolute' if sign == 'signed' else sign}"


def test_function_has_no_draws_to_change():
    maps = xplain.attribute(LINEAR, X, "saliency", target=0).values
    with pytest.raises(xplain.XplainError, match="a function cannot run with other draws or other arithmetic"):
        xplain.measure(LINEAR, X, maps, "stability-draws", target=0, method=lambda c, x, y: maps)
    noise = xplain.measure(LINEAR, X, maps, "stability-noise", target=0, method=lambda c, x, y: WEIGHT[:1].expand_as(x))
    assert noise.values.tolist() == [1, 1]
