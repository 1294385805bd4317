"""Completeness: whether attributions sum to the score difference that they claim to explain."""

from __future__ import annotations

import torch
from torch import Tensor

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
    undefined="for methods that do not satisfy completeness",
    paper=Paper(
        "Axiomatic attribution for deep networks",
        "Mukund Sundararajan, Ankur Taly, Qiqi Yan",
        2017,
        "ICML",
        "1703.01365",
    ),
)
def completeness_gap(inputs: MetricInput, *, expected: Tensor | None, relative: bool = False) -> Score:
    """Measure how far the sum of the attributions is from the score difference that the method claims to explain.

    |Σφ - Δf|, divided by max(|Δf|, 1e-8) if ``relative``. Undefined (NaN) for methods that do not satisfy completeness.
    ``xplain.measure`` finds Δf by rerunning ``method``; without it, it is unknown.

    relative: divide by the magnitude of Δf.
    """
    if expected is None:
        return _undefined_score(inputs)
    expected = expected.double()
    gap = (inputs.attributions.double().sum(dim=(1, 2, 3)) - expected).abs()
    if relative:
        gap = gap / expected.abs().clamp(min=TINY)
    return Score(gap)


@metric(
    "error-rate",
    better="lower",
    bounds=(0, float("inf")),
    unit="share of the score difference",
    undefined="for methods that do not satisfy completeness, and where the score changes by less than 1e-8",
    paper=Paper(
        "MFABA: a more faithful and accelerated boundary-based attribution method for deep neural networks",
        "Zhiyu Zhu, Huaming Chen, Jiayu Zhang, Xinyi Wang, Zhibo Jin, Minhui Xue, Dongxiao Zhu, Kim-Kwang Raymond Choo",
        2024,
        "AAAI",
        "2312.13630",
    ),
)
def error_rate(inputs: MetricInput, *, expected: Tensor | None) -> Score:
    """Compute the relative completeness gap, |Σφ / Δf - 1|.

    The paper's formula omits the -1. Undefined (NaN) for methods that do not satisfy completeness, and where |Δf| < 1e-8.
    """
    if expected is None:
        return _undefined_score(inputs)
    expected = expected.double()
    rate = (inputs.attributions.double().sum(dim=(1, 2, 3)) / expected - 1).abs()
    unchanged = expected.abs() < TINY
    return Score(rate.masked_fill(unchanged, torch.nan), undefined={"the score does not change": unchanged})


def _undefined_score(inputs: MetricInput) -> Score:
    """Return NaN for every image."""
    values = torch.full((len(inputs.images),), torch.nan, dtype=torch.float64, device=inputs.images.device)
    reason = "the method does not satisfy completeness"
    if inputs.score is None:
        reason = "it is unknown what the attributions should sum to"
    return Score(values, undefined={reason: values.isnan()})
