"""Relevance rank: how many of the highest pixels lie on the object."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, ExistingPath
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._ranking import ranks
from xplain.metrics._regions import (
    CLEVR_XAI,
    Difficult,
    MaxShare,
    Regions,
    find_constant_maps,
    find_regions,
    sum_channels,
)
from xplain.metrics.inputs import MetricInput

UNDEFINED = "where the object covers no pixel or all pixels of the crop, or the map is constant"


@metric(
    "relevance-rank",
    alias="rra",
    better="higher",
    has_chance=True,
    unit="share of the highest pixels",
    undefined=UNDEFINED,
    paper=CLEVR_XAI,
)
def relevance_rank(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Compute the share of the object's pixels among as many highest pixels as the object has (relevance rank accuracy).

    |{π(1), ..., π(|S|)} ∩ S| / |S|, for the pixels S of the object and π the pixels from the highest to the lowest sum over channels;
    ties are ranked in raster order. This is precision and recall at |S| pixels. The chance level is the share of the object.
    A pixel belongs to the object if it covers at least half of the pixel. Ignored pixels are not ranked.

    masks, boxes, categories, difficult: as in ``pointing-game``.
    max_share: images whose object covers a larger share of the pixels are undefined (0.33 for boxes: Schulz et al. 2020).
    """
    regions = find_regions(inputs, "relevance-rank", max_share)
    values, reasons = _count_highest(inputs, regions, regions.sizes)
    return Score(values, undefined=reasons, chance=regions.shares)


@metric(
    "top-k-intersection",
    better="higher",
    has_chance=True,
    unit="share of the highest pixels",
    undefined=UNDEFINED,
    paper=Paper(
        "Interpretable semantic photo geolocation",
        "Jonas Theiner, Eric Müller-Budack, Ralph Ewerth",
        2022,
        "WACV",
        "2104.14995",
    ),
)
def top_k_intersection(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    share: Annotated[float, Bounds(above=0, high=1)] = 0.02,
    relative: bool = False,
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Compute the share of the highest pixels that lie on the object.

    |{π(1), ..., π(k)} ∩ S| / k, as ``relevance-rank``, with k = round(share·N) of N pixels, at least 1.

    masks, boxes, max_share, categories, difficult: as in ``relevance-rank``.
    share: of the pixels; the paper's k is 1000, which is 0.02 of 224 x 224.
    relative: divide by the share of the object (concept influence). The chance level is then 1, and the largest value
    min(1, |S| / k)·N / |S|.
    """
    regions = find_regions(inputs, "top-k-intersection", max_share)
    counts = (share * regions.totals.double()).round().clamp(min=1).long()
    values, reasons = _count_highest(inputs, regions, counts)
    if relative:
        return Score(values / regions.shares, undefined=reasons, chance=torch.ones_like(values))
    return Score(values, undefined=reasons, chance=regions.shares)


def _count_highest(inputs: MetricInput, regions: Regions, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the share (B,) of the ``counts`` (B,) highest pixels that lie on the object, and the reasons of undefined ones."""
    values = sum_channels(inputs)
    is_highest = ranks(values.masked_fill(~regions.counted, -torch.inf)) < counts[:, None]
    shares = (is_highest & regions.inside).sum(dim=1) / counts.double()
    reasons = {
        "the object covers all pixels of the crop": regions.sizes == regions.totals,
        "the map is constant": find_constant_maps(values, regions.counted),
    }
    return regions.mask_undefined(shares, reasons)
