"""Agreement of maps against scipy and scikit-image, by hand, and where it is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.comparisons import noise
from xplain.core.options import RenderOptions
from xplain.reports.agreement import compute_agreement, mean_agreement
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
