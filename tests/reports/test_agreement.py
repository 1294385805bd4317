"""Agreement of maps against scipy and scikit-image, by hand, and where it is undefined."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.helpers.comparisons import make_cell, make_comparison, make_row, noise
from xplain.core.options import RenderOptions
from xplain.reports.agreement import compute_agreement, make_agreement_figure, mean_agreement
from xplain.reports.comparison import describe_comparison
from xplain.reports.figures import paper_style
from xplain.reports.render import normalize


def test_compute_agreement_matches_scipy():
    stats, metrics = pytest.importorskip("scipy.stats"), pytest.importorskip("skimage.metrics")
    maps = [noise(seed) + k * noise(9) for k, seed in enumerate((1, 2, 3))]
    agreement = compute_agreement(maps, RenderOptions())
    sums = [values.astype(np.float64).sum(axis=0).ravel() for values in maps]
    tops = [set(np.argsort(-values)[:77]) for values in sums]  # round(0.1 * 24 * 32)
    for i in range(3):
        for j in range(3):
            assert agreement["spearman"][i, j] == pytest.approx(stats.spearmanr(sums[i], sums[j]).statistic)
            assert agreement["top10"][i, j] == pytest.approx(len(tops[i] & tops[j]) / 77)
            a, b = (normalize(maps[k], RenderOptions()) for k in (i, j))
            full = metrics.structural_similarity(
                a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
            )  # cropped to whole windows, as ours
            assert agreement["ssim"][i, j] == pytest.approx(full, abs=1e-9)


def test_compute_agreement_follows_sign_option():
    a = noise(1)
    assert compute_agreement([a, -a], RenderOptions())["spearman"][0, 1] == pytest.approx(-1)
    assert compute_agreement([a, -a], RenderOptions(sign="absolute"))["spearman"][0, 1] == pytest.approx(1)
    assert compute_agreement([a, -a], RenderOptions(sign="signed"))["top10"][0, 1] == 1
    low = compute_agreement([a, -a], RenderOptions(sign="negative"))["top10"]
    assert low[0, 1] == compute_agreement([a, -a], RenderOptions())["top10"][0, 1] == 0


@pytest.mark.filterwarnings("error")
def test_compute_agreement_undefined_maps():
    flat = np.full((1, 24, 32), 2.0)
    agreement = compute_agreement([noise(1), flat, None, noise(2)], RenderOptions())
    for matrix in agreement.values():
        assert np.isnan(matrix[1:3]).all()
        assert np.isnan(matrix[:, 1:3]).all()
        assert np.isfinite(matrix[[0, 0, 3, 3], [0, 3, 0, 3]]).all()
    small = compute_agreement([noise(1, (8, 30)), noise(2, (8, 30))], RenderOptions())
    assert np.isnan(small["ssim"]).all()
    assert np.isfinite(small["spearman"]).all()
    assert all(np.isnan(matrix).all() for matrix in compute_agreement([None, None], RenderOptions()).values())


@pytest.mark.filterwarnings("error")
def test_mean_agreement_ignores_nan():
    two = [
        {"spearman": np.array([[1, v], [v, np.nan]])} | {k: np.eye(2) for k in ("top10", "ssim")} for v in (0.2, 0.6)
    ]
    mean, count = mean_agreement([*two, {name: np.full((2, 2), np.nan) for name in ("spearman", "top10", "ssim")}])[
        "spearman"
    ]
    assert mean[0].tolist() == pytest.approx([1, 0.4])
    assert np.isnan(mean[1, 1])
    assert count.tolist() == [[2, 2], [2, 0]]


@pytest.mark.parametrize("count", [2, 6, 9])
def test_labels_are_whole_and_apart(count):
    """Long labels are not cut, and do not overlap each other, the numbers of the rows or the edge of the figure."""
    labels = [f"expected-gradients:samples={k},baselines=noise,alpha=stratified,tolerance=0.25" for k in range(count)]
    comparison = make_comparison([make_row([make_cell(noise(k)) for k in range(count)])], labels)
    with paper_style():
        figure = make_agreement_figure(describe_comparison(comparison, "", []))
        figure.canvas.draw()
    axes = figure.axes[0]
    names = [text for text in axes.texts if "expected" in text.get_text()]
    assert [text.get_text().replace("\n", "") for text in names] == labels
    boxes = [text.get_window_extent() for text in names]
    assert min(box.x0 for box in boxes) >= 0
    assert min(box.y0 for box in boxes) >= 0
    assert max(box.y1 for box in boxes) <= figure.bbox.height
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
    numbers = [tick.get_window_extent() for tick in axes.get_yticklabels()]
    assert max(box.x1 for box in boxes) <= min(box.x0 for box in numbers)
