"""AIC and SIC: a literal reference, the authors' program, exclusions, and what the two share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.reference import information_curves as literal
from xplain.core.registry import METRICS
from xplain.core.rng import Streams
from xplain.metrics import information_curves
from xplain.metrics._interpolation import interpolate_unknown, measure_webp_size
from xplain.metrics.inputs import MetricInput
from xplain.metrics.sensitivity_n import draw_subsets
from xplain.oracle import Oracle
from xplain.oracle.runtime import Runtime
from xplain.pipelines.attribution import run_metric

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
THRESHOLDS = "1+3+10+25+60"
SHARES = (0.01, 0.03, 0.1, 0.25, 0.6)


def photograph(name: str) -> np.ndarray:
    """(24, 32, 3) in 8 bits."""
    with Image.open(SAMPLES / f"{name}.jpg") as picture:
        return np.asarray(picture.convert("RGB").resize((32, 24), Image.Resampling.BILINEAR))


PICTURES = [photograph("cat"), photograph("rocket"), photograph("espresso")]
X = torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1).double() / 255 for each in PICTURES])


def sharpness(x: Tensor) -> Tensor:
    """(B, 2) logits: class 1 where neighbours differ."""
    step = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
    return torch.stack([torch.zeros_like(step), 60 * (step - 0.03)], dim=1)


MODEL = toys.classifier(toys.Function(sharpness))


def probability(image: np.ndarray) -> float:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    return float(sharpness(pixels[None]).softmax(dim=1)[0, 1])


def is_sharp(image: np.ndarray) -> float:
    return float(probability(image) > 0.5)


def smooth_map(seed: int) -> Tensor:
    """(3, 3, 24, 32) of blobs and some noise."""
    return xplain.data.filters.gaussian_blur(toys.images(3, 24, 32, seed=seed), 2.0) + 0.02 * toys.images(
        3, 24, 32, seed=seed + 1
    )


MAPS = smooth_map(4)


def random_pixels(i: int) -> np.ndarray:
    """(24, 32) those that are known in the blurred version of image ``i``."""
    rng = Streams.of(X[i : i + 1], 0, "information-curves")
    one = torch.ones(1, dtype=torch.int64)
    return draw_subsets(rng, one, 7 * one, 768)[0, 0].reshape(24, 32).numpy()


def measured(metric: str, maps: Tensor = MAPS, images: Tensor = X, model=MODEL, **options) -> xplain.Score:
    options = {"thresholds": THRESHOLDS, "min_probability": 0, "target": 1} | options
    return xplain.measure(model, images, maps, metric, **options)


# ------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6])
def test_unknown_pixels_are_barycentric_means_of_known_ones(share):
    known = np.random.default_rng(1).random((24, 32)) < share
    shown = interpolate_unknown(PICTURES[0], known)
    assert shown.dtype == np.uint8
    assert (shown == literal.interpolated(PICTURES[0], known)).all()


def test_a_ramp_is_revealed_whole_and_known_pixels_stay():
    rows, columns = np.indices((24, 32))
    ramp = np.stack([3 * rows + 2 * columns, 5 * columns, 200 - 4 * rows], axis=2).astype(np.uint8)
    known = np.zeros((24, 32), dtype=bool)
    assert (interpolate_unknown(ramp, known) == ramp).all()  # by the corners alone
    known[5:9, 3:20] = True
    for picture in PICTURES:
        assert (interpolate_unknown(picture, known)[known] == picture[known]).all()
        assert (interpolate_unknown(picture, np.ones_like(known)) == picture).all()


def test_information_is_the_size_as_lossless_webp():
    flat = np.full((24, 32, 3), 7, dtype=np.uint8)
    for picture in (*PICTURES, flat):
        assert measure_webp_size(picture) == literal.size(picture)
    assert measure_webp_size(flat) < 100 < 1000 < measure_webp_size(PICTURES[0])


# ------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize(("metric", "performance"), [("sic", probability), ("aic", is_sharp)])
@pytest.mark.parametrize("order", ["signed", "absolute"])
def test_agrees_with_the_literal_reference(metric, performance, order):
    maps = MAPS - MAPS.mean()
    found = measured(metric, maps, order=order)
    seen = 0
    for i in range(3):
        ranked = maps[i].sum(dim=0).numpy()
        ranked = np.abs(ranked) if order == "absolute" else ranked
        if performance(literal.interpolated(PICTURES[i], random_pixels(i))) >= performance(PICTURES[i]):
            assert found.values[i].isnan()
            continue
        x, y = literal.points_of(PICTURES[i], ranked, random_pixels(i), performance, SHARES)
        assert len({*x}) == len(x)
        assert float(found.values[i]) == pytest.approx(literal.area(x, y), abs=2e-3)  # corners between 1001 places
        at = np.searchsorted(np.arange(1001) / 1000, x)
        corners_y = np.interp(at / 1000, [0, *sorted(x), 1], [0, *[b for _, b in sorted(zip(x, y, strict=True))], 1])
        assert found.curve[i, at].tolist() == pytest.approx(corners_y.tolist(), abs=5e-3)
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize(("metric", "performance"), [("sic", probability), ("aic", is_sharp)])
@pytest.mark.parametrize("monotone", [True, False])
def test_agrees_with_the_authors_program(metric, performance, monotone, monkeypatch):
    pic = pytest.importorskip("saliency.metrics.pic")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # its name before NumPy 2.4
    found = measured(metric, monotone=monotone)
    for i in range(3):
        try:
            theirs = pic.compute_pic_metric(
                PICTURES[i],
                MAPS[i].sum(dim=0).numpy(),
                random_pixels(i),
                lambda images: [performance(each) for each in images],
                list(SHARES),
                min_pred_value=0.0,
                keep_monotonous=monotone,
            )
        except pic.ComputePicMetricError:
            assert found.values[i].isnan()
            continue
        assert float(found.values[i]) == pytest.approx(theirs.auc, abs=1e-9)
        assert found.curve[i].tolist() == pytest.approx(list(theirs.curve_y), abs=1e-9)
    assert found.values.isfinite().sum() >= 2


def test_the_map_that_shows_edges_beats_its_opposite():
    grey = X.mean(dim=1, keepdim=True)
    edges = torch.zeros_like(grey)
    edges[..., 1:] += (grey[..., 1:] - grey[..., :-1]).abs()
    edges[..., :-1] += (grey[..., 1:] - grey[..., :-1]).abs()
    assert (measured("sic", edges).values > measured("sic", -edges).values + 0.05).all()


def test_a_constant_map_makes_everything_known_at_once():
    """All points lie at (1, 1), so the curve is the diagonal."""
    found = measured("sic", torch.zeros(3, 1, 24, 32))
    assert found.values.tolist() == pytest.approx([0.5] * 3, abs=1e-12)


def test_curves_rise_only_where_the_best_so_far_is_kept():
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


def test_what_holds_less_than_the_blurred_image_or_more_than_the_image_is_cut():
    sizes = torch.tensor([[100.0, 90, 150, 260, 200]])
    chances = torch.tensor([[0.1, 0.7, 0.05, 0.95, 0.9]])
    curve = information_curves._score(sizes, chances, ("a", "b"), 0, False).curve[0]
    # (0, .75) gives way to (0, 0); (.5, 0); (1, 1)
    assert curve[[0, 250, 500, 750, 1000]].tolist() == pytest.approx([0, 0, 0, 0.5, 1])


# ------------------------------------------------------------------------------------------------- exclusions


def reasons(found: xplain.Score) -> dict[str, list[int]]:
    return {reason: mask.nonzero()[:, 0].tolist() for reason, mask in found.undefined.items() if mask.any()}


def test_exclusions_are_counted_apart_and_differ_between_the_two():
    images = torch.stack([X[0], torch.full_like(X[0], 0.5), X[1]])
    sure = [probability(each) for each in PICTURES]
    found = measured("sic", images=images, min_probability=(sure[0] + sure[1]) / 2)
    low = 2 if sure[1] < sure[0] else 0
    assert reasons(found) == {"the target's probability is under min_probability": sorted({1, low})}
    assert found.values.isnan().tolist() == [i in (1, low) for i in range(3)]
    found = measured("sic", images=images)
    assert reasons(found) == {"the image is not larger than its blurred version": [1]}
    found = measured("aic", images=images, min_probability=0.8)
    blunt = [i for i, sharp in ((0, is_sharp(PICTURES[0])), (1, False), (2, is_sharp(PICTURES[1]))) if not sharp]
    assert reasons(found) == {"the image is not classified as the target": blunt}
    assert len(blunt) == 2
    sharp = [i for i in range(3) if is_sharp(PICTURES[i])]
    assert reasons(measured("aic", target=0, min_probability=0.8)) == {
        "the image is not classified as the target": sharp,
        "the blurred image is classified as the target": [i for i in range(3) if i not in sharp],
    }


def test_a_model_that_likes_blurred_images_leaves_nothing_to_measure():
    model = toys.classifier(toys.Function(lambda x: -sharpness(x)))
    found = measured("sic", model=model)
    assert reasons(found) == {"the blurred image has no lower probability": [0, 1, 2]}
    assert found.values.isnan().all()
    assert found.curve.isnan().all()


# ------------------------------------------------------------------------------------------------- sharing


def test_both_share_forwards_and_masks():
    oracle = Oracle(MODEL, score="prob")
    inputs = MetricInput(oracle, X, MAPS, torch.ones(3, dtype=torch.int64))
    settings = {"thresholds": THRESHOLDS, "min_probability": 0.0}
    specs = [METRICS.get(name) for name in ("aic", "sic")]
    both = [run_metric(spec, spec.resolve(settings), inputs, Runtime()) for spec in specs]
    assert oracle.cost.forwards == 3 * 7
    for spec, together in zip(specs, both, strict=True):
        alone = measured(spec.name)
        assert alone.cost.forwards == 3 * 7
        assert torch.equal(alone.curve.nan_to_num(-1), together.curve.nan_to_num(-1))


def test_another_seed_keeps_other_pixels():
    assert not torch.equal(measured("sic").values, measured("sic", seed=1).values)
