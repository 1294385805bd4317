"""Effective heat ratio: the precision of the highest pixels, averaged over thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import ExistingPath
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._regions import Difficult, MaxShare, find_regions, sum_channels
from xplain.metrics.inputs import MetricInput

BASE = 0.1  # scaled values below are no heat
HIGHEST_THRESHOLD = 0.99
LEVELS = 11  # quantiles 0, 0.1, ..., 1


@metric(
    "ehr",
    better="higher",
    has_chance=True,
    unit="mean share of the highest pixels",
    undefined="where the object covers no pixel of the crop, or the map is zero",
    paper=Paper(
        "Fine-grained neural network explanation by identifying input features with predictive information",
        "Yang Zhang, Ashkan Khakzar, Yawei Li, Azade Farshad, Seong Tae Kim, Nassir Navab",
        2021,
        "NeurIPS",
        "2110.01471",
    ),
    deviations="The authors' program divides the heat on the object by the number of pixels, which also rewards flat maps. xplain counts "
    "pixels, so that a constant map has the share of the object.",
)
def ehr(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Average the share of the object among the pixels above thresholds (effective heat ratio).

    The sums over channels are scaled to [0, 1]. The thresholds are the quantiles 0, 0.1, ..., 1 of the values of at least 0.1, at most
    0.99; the value is the area under the curve of the shares of the object among the pixels that reach them. A constant map that is
    not zero counts as 1 everywhere. The chance level is the share of the object.
    A pixel belongs to the object if it covers at least half of the pixel. Ignored pixels do not count.

    masks, boxes, categories, difficult: as in ``pointing-game``.
    max_share: images whose object covers a larger share of the pixels are undefined.
    """
    regions = find_regions(inputs, "ehr", max_share)
    sums = sum_channels(inputs)
    curves = torch.full((len(sums), LEVELS), torch.nan, dtype=torch.float64, device=sums.device)
    for i in (regions.sizes > 0).nonzero()[:, 0].tolist():
        counted = regions.counted[i]
        curves[i] = _measure_shares(sums[i, counted], regions.inside[i, counted])
    is_zero = ((sums == 0) | ~regions.counted).all(dim=1)
    values, reasons = regions.mask_undefined(torch.trapezoid(curves, dx=1 / (LEVELS - 1)), {"the map is zero": is_zero})
    return Score(values, undefined=reasons, chance=regions.shares)


def _measure_shares(values: Tensor, inside: Tensor) -> Tensor:
    """Return the share (LEVELS,) of the object among the pixels that reach each threshold. values, inside: (N,)."""
    heat = _scale(values)
    ordered = heat[heat >= BASE].sort().values
    levels = torch.linspace(0, 1, LEVELS, dtype=torch.float64, device=values.device)
    thresholds = _find_quantiles(ordered, levels).clamp(max=HIGHEST_THRESHOLD)
    reached = heat >= thresholds[:, None]
    return (reached & inside).sum(dim=1) / reached.sum(dim=1).double()


def _scale(values: Tensor) -> Tensor:
    """Return values (N,) scaled to [0, 1]; ones if they are equal."""
    low, high = values.aminmax()
    largest = torch.maximum(low.abs(), high.abs())
    if low == high or largest == 0:
        return torch.ones_like(values)
    low, high, values = low / largest, high / largest, values / largest  # the range of huge values is infinite
    return (values - low) / (high - low)


def _find_quantiles(ordered: Tensor, levels: Tensor) -> Tensor:
    """Return the quantiles of sorted values (N,) at levels (K,), linear between values. torch.quantile refuses large maps."""
    positions = levels * (len(ordered) - 1)
    lower = positions.long()
    upper = (lower + 1).clamp(max=len(ordered) - 1)
    return ordered[lower] + (positions - lower) * (ordered[upper] - ordered[lower])
