"""Similarities against scipy and scikit-image, and on maps whose numbers are known."""

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
B = 0.5 * A + B  # neither alike nor unrelated
TIED = (3 * A).round(), (2 * B).round()


def near(values):
    return pytest.approx(list(values), abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(A, B), TIED, (A.float(), B), (A[:, :1, :2], B[:, :1, :2])])
def test_rank_correlation_is_scipys(a, b):
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman(a, b).tolist() == near(expected)


def test_rank_correlation_by_hand():
    a = torch.tensor([[1.0, 2.0, 2.0, 5.0]])  # ranks 1, 2.5, 2.5, 4
    b = torch.tensor([[4.0, 1.0, 2.0, 3.0]])  # ranks 4, 1, 2, 3; both have the mean 2.5
    assert spearman(a, b).tolist() == near([(-1.5 * 1.5 + 1.5 * 0.5) / (4.5 * 5) ** 0.5])
    assert spearman(a, a.exp()).tolist() == near([1])
    assert spearman(a, -a).tolist() == near([-1])


@pytest.mark.parametrize(("height", "width"), [(23, 31), (11, 11), (11, 20)])
def test_structural_similarity_is_scikit_images(height, width):
    a, b = (minmax_scale(each[:, :height, :width]) for each in (A, B))
    expected = [
        structural_similarity(
            x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]  # fmt: skip
    assert ssim(a, b).tolist() == near(expected)
    assert ssim(a, a).tolist() == near([1] * 4)


def test_structural_similarity_of_two_constants_compares_their_means():
    black, grey = torch.zeros(1, 12, 12), torch.full((1, 12, 12), 0.5)
    assert ssim(black, grey).tolist() == near([1e-4 / (0.25 + 1e-4)])


def test_maps_smaller_than_the_window_have_no_structural_similarity():
    with pytest.raises(
        UsageError, match="ssim requires maps of at least 11 x 11 pixels, not 10 x 31; use similarity=spearman"
    ):
        ssim(A[:, :10], B[:, :10])


def test_scaling_reaches_zero_and_one():
    scaled = minmax_scale(torch.tensor([[[-2.0, 0.0, 6.0]]]))
    assert scaled.flatten().tolist() == near([0, 0.25, 1])


def test_overlap_counts_what_both_rank_highest():
    a = torch.arange(20.0).reshape(1, 4, 5)  # the highest four are 16 .. 19
    b = a.clone()
    b.view(-1)[[0, 19]] = torch.tensor([99.0, -1.0])  # now 0, 16, 17, 18
    assert top_overlap(a, b, 0.2).tolist() == [0.75]
    assert top_overlap(a, b, 0.05).tolist() == [0]
    assert top_overlap(a, a).tolist() == [1]
    assert top_overlap(a, b, 0.01).tolist() == [0]  # the highest one
    assert top_overlap(a, a, 0.01).tolist() == [1]
    assert top_overlap(torch.zeros(1, 10), torch.arange(10.0)[None], 0.2).tolist() == [0]  # ties: the first two


def test_attributions_are_summed_over_channels_and_may_lose_their_sign():
    a, b = torch.stack([A, 2 * A, -A], dim=1), torch.stack([B, -2 * B], dim=1)  # sums 2A and -B
    assert compare_maps(a, b, "spearman").tolist() == near(spearman(A, -B).tolist())
    assert compare_maps(a, b, "spearman", absolute=True).tolist() == near(spearman(A.abs(), B.abs()).tolist())
    assert compare_maps(a, b, "ssim").tolist() == near(ssim(minmax_scale(A), minmax_scale(-B)).tolist())
    assert compare_maps(a, b, "ssim", absolute=True).tolist() == near(
        ssim(minmax_scale(A.abs()), minmax_scale(B.abs())).tolist()
    )


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_a_constant_map_is_like_nothing(similarity):
    flat = torch.ones(4, 1, 23, 31, dtype=torch.float64)
    flat[1] = A[1]
    found = compare_maps(flat, A[:, None], similarity)
    assert found.isnan().tolist() == [True, False, True, True]
    assert found[1].item() == pytest.approx(1)
