"""How alike two maps are: rank correlation, structural similarity, overlap of what ranks highest; batches of maps at a time."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.data.filters import gaussian_weights
from xplain.metrics._ranking import ranks

Similarity = Literal["spearman", "ssim"]
SIGMA, RADIUS = 1.5, 5  # pixels: Wang et al. 2004's window of 11 x 11
C1, C2 = 0.01**2, 0.03**2  # its constants at a data range of 1


def compare_maps(a: Tensor, b: Tensor, similarity: Similarity, *, absolute: bool = False) -> Tensor:
    """(B,) the similarity of attributions (B, C, H, W), each summed over its channels (absolute: then without its sign).

    ssim compares maps that are scaled to [0, 1]. Undefined (NaN) where a map is constant. Raises UsageError as ``ssim``.
    """
    maps = [each.sum(dim=1) for each in (a, b)]
    first, second = (each.abs() for each in maps) if absolute else maps
    return spearman(first, second) if similarity == "spearman" else ssim(scale_to_one(first), scale_to_one(second))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """(B,) Spearman's rank correlation of values (B, ...), in [-1, 1]: Pearson's of the ranks, ties sharing their mean rank.

    Undefined (NaN) where all values of one side are equal.
    """
    first, second = (_centred_ranks(each.flatten(1)) for each in (a, b))
    return (first * second).sum(dim=1) / (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()


def _centred_ranks(values: Tensor) -> Tensor:
    """(B, N) float64 ranks less their mean; ties share the mean of their ranks."""
    ordered = values.sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    return (below + upto - values.shape[1]).double() / 2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """(B,) mean structural similarity of maps (B, H, W) with a data range of 1, at most 1.

    Mean of (2 μa μb + C1)(2 σab + C2) / ((μa² + μb² + C1)(σa² + σb² + C2)) over the 11 x 11 windows that lie wholly
    inside, Gaussian weights of 1.5 pixels, population moments (Wang, Bovik, Sheikh, Simoncelli 2004, equation 13).
    Raises UsageError for maps smaller than the window.
    """
    window = 2 * RADIUS + 1
    if min(a.shape[-2:]) < window:
        raise UsageError(
            f"ssim has no window of {window} x {window} in maps of {a.shape[-2]} x {a.shape[-1]}", "use spearman"
        )
    a, b = a.double(), b.double()
    mean_a, mean_b, square_a, square_b, product = _window_means(torch.stack([a, b, a * a, b * b, a * b])).unbind()
    variances = square_a - mean_a**2 + square_b - mean_b**2
    likeness = (2 * mean_a * mean_b + C1) * (2 * (product - mean_a * mean_b) + C2)
    return (likeness / ((mean_a**2 + mean_b**2 + C1) * (variances + C2))).mean(dim=(1, 2))


def _window_means(maps: Tensor) -> Tensor:
    """Weighted means of maps (..., H, W) in all windows that lie inside: (..., H - 10, W - 10)."""
    kernel = gaussian_weights(SIGMA, RADIUS).to(maps)
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    found = F.conv2d(F.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None])
    return found.reshape(*maps.shape[:-2], *found.shape[-2:])


def scale_to_one(maps: Tensor) -> Tensor:
    """Maps (B, H, W) stretched to [0, 1]; NaN where a map is constant."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)


def top_overlap(a: Tensor, b: Tensor, share: float = 0.1) -> Tensor:
    """(B,) how much of the highest ``share`` of values (B, ...) two maps have in common, in [0, 1]; ``share`` by chance.

    |top(a) ∩ top(b)| / k with k = round(share·N), at least 1. Ties keep raster order.
    """
    count = max(round(share * a[0].numel()), 1)
    first, second = (ranks(each.flatten(1)) < count for each in (a, b))
    return (first & second).sum(dim=1) / count
