"""Whether attributions add up to what they claim to explain."""

from __future__ import annotations

import torch

from xplain.core.papers import Paper
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput

TINY = 1e-8


@metric(
    "completeness-gap",
    better="lower",
    bounds=(0, float("inf")),
    unit="score",
    undefined="for methods that claim no completeness",
    paper=Paper("Axiomatic attribution for deep networks", "Sundararajan, Taly, Yan", 2017, "ICML", "1703.01365"),
)
def completeness_gap(inputs: MetricInput, *, relative: bool = False) -> Score:
    """How far the sum of the attributions is from the difference of scores that the method says it explains.

    |Σφ - Δf|, or divided by max(|Δf|, 1e-8) if ``relative``. Undefined (NaN) for methods that claim no completeness.
    """
    if inputs.expected is None:
        return _undefined(inputs, "the method claims no completeness")
    expected = inputs.expected.double()
    gap = (inputs.attributions.double().sum(dim=(1, 2, 3)) - expected).abs()
    return Score(gap / expected.abs().clamp(min=TINY) if relative else gap)


@metric(
    "error-rate",
    better="lower",
    bounds=(0, float("inf")),
    unit="share of the score difference",
    undefined="for methods that claim no completeness, and where the score changes by less than 1e-8",
    paper=Paper(
        "MFABA: a more faithful and accelerated boundary-based attribution method for deep neural networks",
        "Zhu, Chen, Zhang, Wang, Jin, Xue, Zhu, Choo",
        2024,
        "AAAI",
        "2312.13630",
    ),
)
def error_rate(inputs: MetricInput) -> Score:
    """The relative completeness gap, |Σφ / Δf - 1|.

    The paper prints it without the -1. Undefined (NaN) where |Δf| < 1e-8, and for methods that claim no completeness.
    """
    if inputs.expected is None:
        return _undefined(inputs, "the method claims no completeness")
    expected = inputs.expected.double()
    rate = (inputs.attributions.double().sum(dim=(1, 2, 3)) / expected - 1).abs()
    small = expected.abs() < TINY
    return Score(rate.masked_fill(small, torch.nan), undefined={"the score does not change": small})


def _undefined(inputs: MetricInput, reason: str) -> Score:
    nothing = torch.full((len(inputs.images),), torch.nan, dtype=torch.float64, device=inputs.images.device)
    return Score(nothing, undefined={reason: nothing.isnan()})
