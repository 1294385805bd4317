"""Similarity of maps: rank correlation, structural similarity and overlap of the highest values."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.data.filters import gaussian_weights
from xplain.metrics._ranking import ranks

Similarity = Literal["spearman", "ssim"]
SIGMA, RADIUS = 1.5, 5  # pixels: the 11 x 11 window of Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # the constants of Wang et al. 2004 at a data range of 1


def compare_maps(a: Tensor, b: Tensor, similarity: Similarity, *, absolute: bool = False) -> Tensor:
    """Return the similarity (B,) of attributions a and b (B, C, H, W), which are summed over channels first.

    similarity: ``ssim`` compares maps that are scaled to [0, 1]. absolute: compare the absolute values of the sums.
    NaN where a map is constant. Raises UsageError as ``ssim``.
    """
    a, b = a.sum(dim=1), b.sum(dim=1)
    if absolute:
        a, b = a.abs(), b.abs()
    if similarity == "spearman":
        return spearman(a, b)
    return ssim(minmax_scale(a), minmax_scale(b))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation (B,) of values a and b (B, ...), in [-1, 1].

    Pearson's correlation of the ranks, where ties share their mean rank. NaN where all values of a or of b are equal.
    """
    a, b = _centered_ranks(a.flatten(1)), _centered_ranks(b.flatten(1))
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()


def _centered_ranks(values: Tensor) -> Tensor:
    """Return the ranks (B, N) of values (B, N) minus the mean rank, in float64; ties share the mean of their ranks."""
    ordered, values = values.sort(dim=1).values, values.contiguous()
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above - values.shape[1]).double() / 2


def is_varying(values: Tensor, tolerance: float) -> Tensor:
    """Return whether values (..., M) differ by more than ``tolerance`` times the largest magnitude: (...)."""
    return values.amax(dim=-1) - values.amin(dim=-1) > tolerance * values.abs().amax(dim=-1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity (B,), at most 1, of maps a and b (B, H, W) with a data range of 1.

    Mean of (2 μa μb + C1)(2 σab + C2) / ((μa² + μb² + C1)(σa² + σb² + C2)) over the 11 x 11 windows inside the map, with
    Gaussian weights of 1.5 pixels and population moments (Wang, Bovik, Sheikh, Simoncelli 2004, equation 13).
    Raises UsageError if the maps are smaller than the window.
    """
    window = 2 * RADIUS + 1
    if min(a.shape[-2:]) < window:
        raise UsageError(
            f"ssim requires maps of at least {window} x {window} pixels, not {a.shape[-2]} x {a.shape[-1]}",
            "use similarity=spearman",
        )
    a, b = a.double(), b.double()
    mean_a, mean_b, square_a, square_b, product = _window_means(torch.stack([a, b, a * a, b * b, a * b])).unbind()
    variances = square_a - mean_a**2 + square_b - mean_b**2
    similarity = (2 * mean_a * mean_b + C1) * (2 * (product - mean_a * mean_b) + C2)
    return (similarity / ((mean_a**2 + mean_b**2 + C1) * (variances + C2))).mean(dim=(1, 2))


def _window_means(maps: Tensor) -> Tensor:
    """Return the weighted means (..., H - 10, W - 10) of maps (..., H, W) in all windows inside the map."""
    kernel = gaussian_weights(SIGMA, RADIUS).to(maps)
    channels = maps.reshape(-1, 1, *maps.shape[-2:])
    means = F.conv2d(F.conv2d(channels, kernel[None, None, None]), kernel[None, None, :, None])
    return means.reshape(*maps.shape[:-2], *means.shape[-2:])


def minmax_scale(maps: Tensor) -> Tensor:
    """Return maps (B, H, W) scaled to [0, 1]; NaN where a map is constant."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)


def top_overlap(a: Tensor, b: Tensor, share: float = 0.1) -> Tensor:
    """Return the overlap (B,) of the highest ``share`` of values of a and b (B, ...), in [0, 1]; ``share`` by chance.

    |top(a) ∩ top(b)| / k with k = round(share·N), at least 1. Ties keep raster order.
    """
    count = max(round(share * a[0].numel()), 1)
    is_top_a, is_top_b = ranks(a.flatten(1)) < count, ranks(b.flatten(1)) < count
    return (is_top_a & is_top_b).sum(dim=1) / count
