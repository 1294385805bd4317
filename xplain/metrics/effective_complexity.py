"""Effective complexity: the smallest share of the pixels that a method ranks highest which decides the prediction."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import Fill, perturbation_curve

Tolerance = Annotated[float, Bounds(above=0, high=1)]
NEVER = "the score of the baseline is too high"
NOT_POSITIVE = "the score of the image is not positive"


def _count_forwards(side: int, steps: int | None, baseline: str, **_: object) -> int:
    return (1 + baseline.count("+")) * ((steps or side) + 1)


@metric(
    "effective-complexity",
    better="lower",
    unit="share of pixels",
    undefined="with curve=deletion, where the baseline keeps the score; where the score of the image is not positive",
    forwards=_count_forwards,
    paper=Paper(
        "On quantitative aspects of model interpretability",
        "An-phi Nguyen, María Rodríguez Martínez",
        2020,
        arxiv="2007.07584",
    ),
    deviations="Read from the insertion curve: the other pixels are those of the baseline, where the paper draws them at random.",
)
def effective_complexity(
    inputs: MetricInput,
    *,
    curve: Literal["insertion", "deletion"] = "insertion",
    tolerance: Tolerance = 0.1,
    steps: Steps | None = None,
    baseline: Fill = "black",
) -> Score:
    """Find the smallest share of the highest ranked pixels that keeps 90 % of the target's probability.

    The place at which the curve of ``insertion`` first reaches (1 - tolerance)·p(image), linear between its points. Few pixels are
    sufficient if the value is low.

    curve: ``deletion`` finds the smallest share whose removal leaves tolerance·p(image), the necessary pixels; undefined (NaN) where even
    the baseline has more.
    tolerance: t, the share of the probability that may be lost, or that is left.
    steps, baseline: as in ``insertion``.
    """
    points = perturbation_curve(inputs, steps, baseline, "pixel", insert=curve == "insertion").double()
    if curve == "insertion":
        original = points[:, -1]
        reached = points >= (1 - tolerance) * original[:, None]
        level = (1 - tolerance) * original
    else:
        original = points[:, 0]
        reached = points <= tolerance * original[:, None]
        level = tolerance * original
    undefined = {NOT_POSITIVE: original <= 0, NEVER: (original > 0) & ~reached.any(dim=1)}
    places = _first_place(points, reached, level)
    return Score(places.masked_fill(undefined[NOT_POSITIVE] | undefined[NEVER], torch.nan), undefined=undefined)


def _first_place(points: Tensor, reached: Tensor, level: Tensor) -> Tensor:
    """Return the place (B,) in [0, 1] at which a curve (B, K+1) first has the level (B,), linear between its points.

    reached: (B, K+1) bool, whether a point is at or beyond the level.
    """
    index = reached.double().argmax(dim=1, keepdim=True)
    after = points.gather(1, index)[:, 0]
    before = points.gather(1, (index - 1).clamp(min=0))[:, 0]
    change = after - before
    step = torch.where(change == 0, 0, (after - level) / change.where(change != 0, 1))
    return (index[:, 0] - step.clamp(0, 1)) / (points.shape[1] - 1)
