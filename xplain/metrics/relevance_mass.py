"""Relevance mass: the share of the positive attribution that lies on the object."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import ExistingPath
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._regions import CLEVR_XAI, Difficult, MaxShare, Regions, find_regions, sum_channels
from xplain.metrics.inputs import MetricInput

Sign = Literal["positive", "absolute"]
UNDEFINED = "where the image has no object of the target in the crop, or the map is nowhere positive"


@metric(
    "relevance-mass",
    alias="rma",
    better="higher",
    has_chance=True,
    unit="share of the positive attribution",
    undefined=UNDEFINED,
    paper=CLEVR_XAI,
)
def relevance_mass(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    sign: Sign = "positive",
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Compute the share of the positive attribution that lies on the object (relevance mass accuracy).

    Σ_{j in S} max(s_j, 0) / Σ_j max(s_j, 0) for the pixels S of the object and the sums s over channels. A map without information
    has the share of the object in the image, which is the chance level; ``concentration`` divides by it.
    A pixel belongs to the object if it covers at least half of the pixel. Ignored pixels count neither in the sums nor in the shares.

    masks, boxes, categories, difficult: as in ``pointing-game``.
    sign: ``absolute`` takes |s| instead of max(s, 0).
    max_share: images whose object covers a larger share of the pixels are undefined (Kohlbrenner et al. 2020: 0.25 and 0.5).
    """
    regions = find_regions(inputs, "relevance-mass", max_share)
    values, reasons = _measure_mass(inputs, regions, sign)
    return Score(values, undefined=reasons, chance=regions.shares)


@metric(
    "concentration",
    better="higher",
    has_chance=True,
    bounds=(0, float("inf")),
    unit="ratio to chance",
    undefined=UNDEFINED,
    paper=Paper(
        "Towards best practice in explaining neural network decisions with LRP",
        "Maximilian Kohlbrenner, Alexander Bauer, Shinichi Nakajima, Alexander Binder, Wojciech Samek, Sebastian Lapuschkin",
        2020,
        "IJCNN",
        "1910.09840",
    ),
)
def concentration(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    sign: Sign = "positive",
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Divide the relevance mass by the share of the object in the image (weighted attribution localization).

    1 for a map without information, whatever the size of the object, so that images with large and small objects can be compared.

    masks, boxes, sign, max_share, categories, difficult: as in ``relevance-mass``.
    """
    regions = find_regions(inputs, "concentration", max_share)
    values, reasons = _measure_mass(inputs, regions, sign)
    return Score(values / regions.shares, undefined=reasons, chance=torch.ones_like(values))


def _measure_mass(inputs: MetricInput, regions: Regions, sign: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the relevance masses (B,), and the reasons of undefined ones."""
    sums = sum_channels(inputs)
    relevance = sums.abs() if sign == "absolute" else sums.clamp(min=0)
    relevance = relevance * regions.counted
    highest = relevance.amax(dim=1, keepdim=True)
    is_zero = highest[:, 0] == 0
    relevance = relevance / highest.masked_fill(highest == 0, 1)  # so that sums of tiny or huge values are exact
    mass = (relevance * regions.inside).sum(dim=1) / relevance.sum(dim=1)
    reason = "the map is zero" if sign == "absolute" else "the map is nowhere positive"
    return regions.mask_undefined(mass, {reason: is_zero})
