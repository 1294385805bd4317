"""Insertion and deletion on curves that are scaled to 1 at the image and 0 at the baseline."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import Fill, Unit, perturbation_curve

Range = Annotated[float, Bounds(above=0)]
LOW_RANGE = "the score of the image exceeds that of the baseline by less than min_range"


def _count_forwards(side: int, steps: int | None, baseline: str, **_: object) -> int:
    return (1 + baseline.count("+")) * ((steps or side) + 1)


# Registers a metric that is the area under a normalized curve.
normalised_metric = partial(
    metric,
    bounds=(-float("inf"), float("inf")),
    unit="normalized target probability",
    forwards=_count_forwards,
    undefined="where the image's score exceeds the baseline's by less than min_range",
    paper=Paper(
        "Restricting the flow: information bottlenecks for attribution",
        "Karl Schulz, Leon Sixt, Federico Tombari, Tim Landgraf",
        2020,
        "ICLR",
        "2001.00396",
    ),
    deviations="Each image is normalized by its own two ends, and its area is the value.",
)


@normalised_metric("normalised-insertion", better="higher")
def normalised_insertion(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    min_range: Range = 0.1,
    clip: bool = False,
) -> Score:
    """Average the insertion curve, scaled to 0 at the baseline and 1 at the image.

    The area of (y_k - b) / (a - b), where a is the score of the image and b that of the baseline, so that images and networks can be
    compared. It requires no rows beyond those of ``insertion``.

    steps, unit: as in ``insertion``.
    baseline: as in ``insertion``. Two baselines are scaled before their mean.
    min_range: undefined (NaN) where a - b is smaller, because the baseline alone keeps the score. In units of the score: choose another
    one for a model that returns values. The images that are left out are a selection: state their share.
    clip: limit the curve to [0, 1].
    """
    return _score(inputs, steps, baseline, unit, min_range, insert=True, clip=clip)


@normalised_metric("normalised-deletion", better="lower")
def normalised_deletion(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    min_range: Range = 0.1,
    clip: bool = False,
) -> Score:
    """Average the deletion curve, scaled to 1 at the image and 0 at the baseline.

    The normalized AOPC is 1 minus this curve.

    steps, baseline, unit, min_range, clip: as in ``normalised-insertion``.
    """
    return _score(inputs, steps, baseline, unit, min_range, insert=False, clip=clip)


def _score(
    inputs: MetricInput,
    steps: int | None,
    baseline: Fill,
    unit: Unit,
    min_range: float,
    *,
    insert: bool,
    clip: bool,
) -> Score:
    """Return the areas under the normalized curves, with the curves. Arguments as in the metrics."""
    kinds: list[Fill] = ["black", "blur"] if baseline == "black+blur" else [baseline]
    curves = [perturbation_curve(inputs, steps, kind, unit, insert=insert) for kind in kinds]
    curve = torch.stack([_normalise(curve.double(), min_range, insert=insert) for curve in curves]).mean(dim=0)
    if clip:
        curve = curve.clamp(0, 1)
    area = torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1)
    return Score(area, curve, undefined={LOW_RANGE: area.isnan()})


def _normalise(curve: Tensor, min_range: float, *, insert: bool) -> Tensor:
    """Return curves (B, K+1) scaled to 1 at the image and 0 at the baseline; NaN where these differ too little."""
    baseline, image = (curve[:, :1], curve[:, -1:]) if insert else (curve[:, -1:], curve[:, :1])
    has_range = image - baseline >= min_range
    return torch.where(has_range, (curve - baseline) / (image - baseline), torch.nan)
