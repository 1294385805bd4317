"""The attribution of pixels as a classifier of the object's pixels: area under the ROC curve and average precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import ExistingPath
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._regions import Difficult, MaxShare, Regions, find_regions, sum_channels
from xplain.metrics.inputs import MetricInput

EULER = 0.5772156649015329  # the constant of Euler and Mascheroni
UNDEFINED = "where the object covers no pixel or all pixels of the crop"


@metric(
    "relevance-auroc",
    better="higher",
    has_chance=True,
    unit="area under the ROC curve",
    undefined=UNDEFINED,
    paper=Paper(
        "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
        "James A. Hanley, Barbara J. McNeil",
        1982,
        "Radiology",
        journal=True,
        doi="10.1148/radiology.143.1.7063747",
    ),
)
def relevance_auroc(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Compute the probability that a pixel of the object has a higher attribution than a pixel outside; ties count half.

    The area under the ROC curve of the sums over channels. The chance level, and the value of a constant map, is 0.5 whatever the
    size of the object.
    A pixel belongs to the object if it covers at least half of the pixel. Ignored pixels do not count.

    masks, boxes, categories, difficult: as in ``pointing-game``.
    max_share: images whose object covers a larger share of the pixels are undefined.
    """
    regions = find_regions(inputs, "relevance-auroc", max_share)
    values, reasons = _measure_each(inputs, regions, area_under_roc)
    return Score(values, undefined=reasons, chance=torch.full_like(values, 0.5))


@metric(
    "relevance-ap",
    better="higher",
    has_chance=True,
    unit="average precision",
    undefined=UNDEFINED,
    paper=Paper(
        "The relationship between precision-recall and ROC curves",
        "Jesse Davis, Mark Goadrich",
        2006,
        "ICML",
        doi="10.1145/1143844.1143874",
    ),
)
def relevance_ap(
    inputs: MetricInput,
    *,
    masks: ExistingPath | None = None,
    boxes: ExistingPath | None = None,
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Compute the average precision of the attribution as a classifier of the object's pixels.

    Σ_n (R_n - R_{n-1}) P_n over the distinct sums over channels from the highest to the lowest, with the precision P_n and the recall
    R_n of the pixels with at least the n-th value: ties enter together. A constant map has the share of the object; the chance level
    of maps without ties is slightly higher.

    masks, boxes, max_share, categories, difficult: as in ``relevance-auroc``.
    """
    regions = find_regions(inputs, "relevance-ap", max_share)
    values, reasons = _measure_each(inputs, regions, average_precision)
    return Score(values, undefined=reasons, chance=expected_precision(regions.sizes, regions.totals))


def _measure_each(
    inputs: MetricInput, regions: Regions, measure: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the values (B,) of a measure of values (N,) and booleans (N,), and the reasons of undefined ones."""
    sums = sum_channels(inputs)
    results = torch.full((len(sums),), torch.nan, dtype=torch.float64, device=sums.device)
    covers_all = regions.sizes == regions.totals
    is_usable = (regions.sizes > 0) & ~covers_all
    for i in is_usable.nonzero()[:, 0].tolist():
        counted = regions.counted[i]
        results[i] = measure(sums[i, counted], regions.inside[i, counted])
    return regions.mask_undefined(results, {"the object covers all pixels of the crop": covers_all})


def area_under_roc(values: Tensor, is_positive: Tensor) -> Tensor:
    """Return P(a > b) + P(a = b) / 2 for a positive a and a negative b: a scalar in float64.

    values, is_positive: (N,), with positives and negatives.
    """
    _, level, counts = values.unique(return_inverse=True, return_counts=True)
    positives = torch.zeros_like(counts).index_add_(0, level, is_positive.long())
    negatives = counts - positives
    lower = negatives.cumsum(0) - negatives
    wins = (positives * lower).sum() + (positives * negatives).sum().double() / 2
    return wins / (positives.sum() * negatives.sum())


def average_precision(values: Tensor, is_positive: Tensor) -> Tensor:
    """Return the average precision of a ranking from the highest to the lowest value: a scalar in float64.

    values, is_positive: (N,), with positives. Equal values enter together.
    """
    _, level, counts = values.unique(return_inverse=True, return_counts=True)
    positives = torch.zeros_like(counts).index_add_(0, level, is_positive.long()).flip(0)
    precision = positives.cumsum(0).double() / counts.flip(0).cumsum(0)
    return (positives * precision).sum() / positives.sum()


def expected_precision(positives: Tensor, totals: Tensor) -> Tensor:
    """Return the expected average precision (B,) of a random ranking of ``totals`` with ``positives``, both (B,).

    (R - 1) / (N - 1) + (N - R) / (N (N - 1)) H_N with the harmonic number H_N (Bestgen 2015); 1 if N is 1.
    """
    r, n = positives.double(), totals.double()
    harmonic = torch.special.digamma(n + 1) + EULER
    expected = (r - 1) / (n - 1) + (n - r) / (n * (n - 1)) * harmonic
    return torch.where(n > 1, expected, torch.ones_like(n))
