"""Similarities against SciPy and scikit-image, and on maps with known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from xplain.core.errors import UsageError
from xplain.metrics._similarity import compare_maps, minmax_scale, spearman, ssim, top_overlap

RNG = np.random.default_rng(0)
A, B = (torch.from_numpy(RNG.normal(size=(4, 23, 31))) for _ in range(2))
B = 0.5 * A + B  # partly correlated with A
TIED = (3 * A).round(), (2 * B).round()


def approx(values):
    return pytest.approx(list(values), abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(A, B), TIED, (A.float(), B), (A[:, :1, :2], B[:, :1, :2])])
def test_spearman_matches_scipy(a, b):
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman(a, b).tolist() == approx(expected)


def test_spearman_by_hand():
    a = torch.tensor([[1.0, 2.0, 2.0, 5.0]])  # ranks 1, 2.5, 2.5, 4
    b = torch.tensor([[4.0, 1.0, 2.0, 3.0]])  # ranks 4, 1, 2, 3; both have the mean 2.5
    assert spearman(a, b).tolist() == approx([(-1.5 * 1.5 + 1.5 * 0.5) / (4.5 * 5) ** 0.5])
    assert spearman(a, a.exp()).tolist() == approx([1])
    assert spearman(a, -a).tolist() == approx([-1])


@pytest.mark.parametrize(("height", "width"), [(23, 31), (11, 11), (11, 20)])
def test_ssim_matches_scikit_image(height, width):
    a, b = minmax_scale(A[:, :height, :width]), minmax_scale(B[:, :height, :width])
    expected = [
        structural_similarity(
            x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]  # fmt: skip
    assert ssim(a, b).tolist() == approx(expected)
    assert ssim(a, a).tolist() == approx([1] * 4)


def test_ssim_of_constants_compares_means():
    black, grey = torch.zeros(1, 12, 12), torch.full((1, 12, 12), 0.5)
    assert ssim(black, grey).tolist() == approx([1e-4 / (0.25 + 1e-4)])


def test_ssim_rejects_small_maps():
    with pytest.raises(
        UsageError, match="ssim requires maps of at least 11 x 11 pixels, not 10 x 31; use similarity=spearman"
    ):
        ssim(A[:, :10], B[:, :10])


def test_minmax_scale_reaches_bounds():
    scaled = minmax_scale(torch.tensor([[[-2.0, 0.0, 6.0]]]))
    assert scaled.flatten().tolist() == approx([0, 0.25, 1])


def test_top_overlap_counts_common_values():
    a = torch.arange(20.0).reshape(1, 4, 5)  # the highest four are 16 .. 19
    b = a.clone()
    b.view(-1)[[0, 19]] = torch.tensor([99.0, -1.0])  # now 0, 16, 17, 18
    assert top_overlap(a, b, 0.2).tolist() == [0.75]
    assert top_overlap(a, b, 0.05).tolist() == [0]
    assert top_overlap(a, a).tolist() == [1]
    assert top_overlap(a, b, 0.01).tolist() == [0]  # the highest one
    assert top_overlap(a, a, 0.01).tolist() == [1]
    assert top_overlap(torch.zeros(1, 10), torch.arange(10.0)[None], 0.2).tolist() == [0]  # ties: the first two


def test_compare_maps_sums_over_channels():
    a, b = torch.stack([A, 2 * A, -A], dim=1), torch.stack([B, -2 * B], dim=1)  # sums 2A and -B
    assert compare_maps(a, b, "spearman").tolist() == approx(spearman(A, -B).tolist())
    assert compare_maps(a, b, "spearman", absolute=True).tolist() == approx(spearman(A.abs(), B.abs()).tolist())
    assert compare_maps(a, b, "ssim").tolist() == approx(ssim(minmax_scale(A), minmax_scale(-B)).tolist())
    assert compare_maps(a, b, "ssim", absolute=True).tolist() == approx(
        ssim(minmax_scale(A.abs()), minmax_scale(B.abs())).tolist()
    )


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_compare_maps_constant_is_nan(similarity):
    flat = torch.ones(4, 1, 23, 31, dtype=torch.float64)
    flat[1] = A[1]
    similarities = compare_maps(flat, A[:, None], similarity)
    assert similarities.isnan().tolist() == [True, False, True, True]
    assert similarities[1].item() == pytest.approx(1)
