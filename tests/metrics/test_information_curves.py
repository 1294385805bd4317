"""AIC and SIC against reference code and the authors' program, undefined values, and shared forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.photographs import PHOTOGRAPHS
from tests.reference import information_curves as reference
from xplain.core.options import ComputeOptions
from xplain.core.registry import METRICS
from xplain.core.rng import Streams
from xplain.metrics import information_curves
from xplain.metrics.inputs import MetricInput
from xplain.metrics.sensitivity_n import draw_subsets
from xplain.oracle import Oracle
from xplain.pipelines.metric_run import MetricRun

THRESHOLDS = "1+3+10+25+60"
SHARES = (0.01, 0.03, 0.1, 0.25, 0.6)


X = torch.stack([torch.from_numpy(photo.copy()).permute(2, 0, 1).double() / 255 for photo in PHOTOGRAPHS])


def sharpness(x: Tensor) -> Tensor:
    """Return logits (B, 2), which favor class 1 if neighboring pixels differ."""
    step = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
    return torch.stack([torch.zeros_like(step), 60 * (step - 0.03)], dim=1)


MODEL = toys.classifier(toys.Function(sharpness))


def probability(image: np.ndarray) -> float:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    return float(sharpness(pixels[None]).softmax(dim=1)[0, 1])


def is_sharp(image: np.ndarray) -> float:
    return float(probability(image) > 0.5)


def make_smooth_maps(seed: int) -> Tensor:
    """Return maps (3, 3, 24, 32) of blobs with a little noise."""
    return xplain.data.filters.gaussian_blur(toys.images(3, 24, 32, seed=seed), 2.0) + 0.02 * toys.images(
        3, 24, 32, seed=seed + 1
    )


MAPS = make_smooth_maps(4)


def draw_known_pixels(i: int) -> np.ndarray:
    """Return the pixels (24, 32) that the blurred version of image ``i`` keeps."""
    rng = Streams.of(X[i : i + 1], 0, "information-curves")
    sample = torch.ones(1, dtype=torch.int64)
    return draw_subsets(rng, sample, 7 * sample, 768)[0, 0].reshape(24, 32).numpy()


def compute_score(metric: str, maps: Tensor = MAPS, images: Tensor = X, model=MODEL, **options) -> xplain.Score:
    options = {"thresholds": THRESHOLDS, "min_probability": 0, "target": 1} | options
    return xplain.measure(model, images, maps, metric, **options)


@pytest.mark.parametrize(("metric", "performance"), [("sic", probability), ("aic", is_sharp)])
@pytest.mark.parametrize("order", ["signed", "absolute"])
def test_score_matches_reference(metric, performance, order):
    maps = MAPS - MAPS.mean()
    score = compute_score(metric, maps, order=order)
    compared = 0
    for i in range(3):
        ranked = maps[i].sum(dim=0).numpy()
        ranked = np.abs(ranked) if order == "absolute" else ranked
        if performance(reference.interpolate(PHOTOGRAPHS[i], draw_known_pixels(i))) >= performance(PHOTOGRAPHS[i]):
            assert score.values[i].isnan()
            continue
        x, y = reference.compute_points(PHOTOGRAPHS[i], ranked, draw_known_pixels(i), performance, SHARES)
        assert len({*x}) == len(x)
        assert float(score.values[i]) == pytest.approx(reference.area(x, y), abs=2e-3)  # the curve has 1001 positions
        at = np.searchsorted(np.arange(1001) / 1000, x)
        corners_y = np.interp(at / 1000, [0, *sorted(x), 1], [0, *[b for _, b in sorted(zip(x, y, strict=True))], 1])
        assert score.curve[i, at].tolist() == pytest.approx(corners_y.tolist(), abs=5e-3)
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize(("metric", "performance"), [("sic", probability), ("aic", is_sharp)])
@pytest.mark.parametrize("monotone", [True, False])
def test_score_matches_authors_program(metric, performance, monotone, monkeypatch):
    pic = pytest.importorskip("saliency.metrics.pic")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # its name before NumPy 2.4
    score = compute_score(metric, monotone=monotone)
    for i in range(3):
        try:
            expected = pic.compute_pic_metric(
                PHOTOGRAPHS[i],
                MAPS[i].sum(dim=0).numpy(),
                draw_known_pixels(i),
                lambda images: [performance(image) for image in images],
                list(SHARES),
                min_pred_value=0.0,
                keep_monotonous=monotone,
            )
        except pic.ComputePicMetricError:
            assert score.values[i].isnan()
            continue
        assert float(score.values[i]) == pytest.approx(expected.auc, abs=1e-9)
        assert score.curve[i].tolist() == pytest.approx(list(expected.curve_y), abs=1e-9)
    assert score.values.isfinite().sum() >= 2


def test_edge_map_beats_its_negative():
    grey = X.mean(dim=1, keepdim=True)
    edges = torch.zeros_like(grey)
    edges[..., 1:] += (grey[..., 1:] - grey[..., :-1]).abs()
    edges[..., :-1] += (grey[..., 1:] - grey[..., :-1]).abs()
    assert (compute_score("sic", edges).values > compute_score("sic", -edges).values + 0.05).all()


def test_constant_map_scores_half():
    """All points are (1, 1), so the curve is the diagonal."""
    score = compute_score("sic", torch.zeros(3, 1, 24, 32))
    assert score.values.tolist() == pytest.approx([0.5] * 3, abs=1e-12)


def test_monotone_keeps_best_performance():
    flat = X.new_tensor([0, 0.2, 0.1, 0.4, 1, 1]).repeat(1, 1)
    sizes = flat.new_tensor([[100, 120, 140, 160, 180, 200]])
    reasons = ("a", "b")
    kept = information_curves._score(sizes, flat, reasons, 0, True).curve[0]
    raw = information_curves._score(sizes, flat, reasons, 0, False).curve[0]
    assert (kept.diff() >= 0).all()
    assert (raw.diff() < 0).any()
    assert kept[[0, 200, 400, 600, 800, 1000]].tolist() == pytest.approx([0, 0.2, 0.2, 0.4, 1, 1])
    assert raw[[0, 200, 400, 600, 800, 1000]].tolist() == pytest.approx([0, 0.2, 0.1, 0.4, 1, 1])
    value = information_curves._score(sizes, flat, reasons, 0, False).values
    assert value.tolist() == pytest.approx([(0.2 + 0.1 + 0.4 + 1 + 0.5) / 5])


def test_curve_clips_points():
    sizes = torch.tensor([[100.0, 90, 150, 260, 200]])
    chances = torch.tensor([[0.1, 0.7, 0.05, 0.95, 0.9]])
    curve = information_curves._score(sizes, chances, ("a", "b"), 0, False).curve[0]
    # the points (0, .75), (.5, 0), (1, 1); (0, .75) is replaced by (0, 0)
    assert curve[[0, 250, 500, 750, 1000]].tolist() == pytest.approx([0, 0, 0, 0.5, 1])


def find_reasons(score: xplain.Score) -> dict[str, list[int]]:
    return {reason: mask.nonzero()[:, 0].tolist() for reason, mask in score.undefined.items() if mask.any()}


def test_undefined_reasons_are_separate():
    images = torch.stack([X[0], torch.full_like(X[0], 0.5), X[1]])
    probabilities = [probability(photo) for photo in PHOTOGRAPHS]
    score = compute_score("sic", images=images, min_probability=(probabilities[0] + probabilities[1]) / 2)
    low = 2 if probabilities[1] < probabilities[0] else 0
    assert find_reasons(score) == {"the target's probability is below min_probability": sorted({1, low})}
    assert score.values.isnan().tolist() == [i in (1, low) for i in range(3)]
    score = compute_score("sic", images=images)
    assert find_reasons(score) == {"the image is not larger than its blurred version": [1]}
    score = compute_score("aic", images=images, min_probability=0.8)
    not_sharp = [
        i for i, sharp in ((0, is_sharp(PHOTOGRAPHS[0])), (1, False), (2, is_sharp(PHOTOGRAPHS[1]))) if not sharp
    ]
    assert find_reasons(score) == {"the image is not classified as the target": not_sharp}
    assert len(not_sharp) == 2
    sharp = [i for i in range(3) if is_sharp(PHOTOGRAPHS[i])]
    assert find_reasons(compute_score("aic", target=0, min_probability=0.8)) == {
        "the image is not classified as the target": sharp,
        "the blurred image is classified as the target": [i for i in range(3) if i not in sharp],
    }


def test_probable_blurred_images_are_undefined():
    model = toys.classifier(toys.Function(lambda x: -sharpness(x)))
    score = compute_score("sic", model=model)
    assert find_reasons(score) == {"the target's probability is not lower for the blurred image": [0, 1, 2]}
    assert score.values.isnan().all()
    assert score.curve.isnan().all()


def test_aic_sic_share_forwards():
    oracle = Oracle(MODEL, score="prob")
    inputs = MetricInput(oracle, X, MAPS, torch.ones(3, dtype=torch.int64))
    settings = {"thresholds": THRESHOLDS, "min_probability": 0.0}
    specs = [METRICS.get(name) for name in ("aic", "sic")]
    both = [MetricRun.resolve(spec, settings).measure(inputs, ComputeOptions()) for spec in specs]
    assert oracle.cost.forwards == 3 * 7
    for spec, together in zip(specs, both, strict=True):
        alone = compute_score(spec.name)
        assert alone.cost.forwards == 3 * 7
        assert torch.equal(alone.curve.nan_to_num(-1), together.curve.nan_to_num(-1))


def test_seed_changes_known_pixels():
    assert not torch.equal(compute_score("sic").values, compute_score("sic", seed=1).values)
