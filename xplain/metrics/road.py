"""ROAD (remove and debias): perturbation curves whose removed pixels are filled by noisy linear imputation."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Percentages, read_percentages
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics._imputation import impute
from xplain.metrics._ranking import pixel_ranks
from xplain.metrics.inputs import MetricInput
from xplain.oracle.scores import available_score

ROAD = Paper(
    "A consistent and efficient evaluation strategy for attribution methods",
    "Yao Rong, Tobias Leemann, Vadim Borisov, Gjergji Kasneci, Enkelejda Kasneci",
    2022,
    "ICML",
    "2202.00449",
)
AXIS = "percentiles, from the first to the last"
Noise = Annotated[float, Bounds(low=0)]
RoadScore = Literal["prob", "logit", "log-prob"]


def _count_forwards(*, percentiles: str, **_: object) -> int:
    return len(read_percentages(percentiles))


@metric(
    "road",
    better="higher",
    bounds=(-0.5, 0.5),
    unit="target probability",
    axis=AXIS,
    draws="road",
    forwards=lambda **settings: 2 * _count_forwards(**settings),
    paper=ROAD,
)
def road(
    inputs: MetricInput,
    *,
    rng: Streams,
    percentiles: Percentages = "10..90",
    noise: Noise = 0.01,
    score: RoadScore = "prob",
) -> Score:
    """Compute half the difference between imputing the least and the most relevant pixels from their neighbors.

    At percentile p the round((100 - p)·N / 100) most relevant (MoRF) or least relevant (LeRF) of N pixels are removed. Pixels
    are ranked by the sum over channels; ties keep raster order. The curve is (LeRF - MoRF) / 2; the value is its mean over the
    percentiles.
    A removed pixel is the weighted mean of its eight neighbors, with weights 1/6 (1/12 for diagonal neighbors) that are divided by
    their sum at the border, plus Gaussian noise. The means of all removed pixels are solved for jointly.

    percentiles: percentages to keep, ``10+50``, or ``10..90`` (in steps of ten).
    noise: standard deviation in pixel units; the noise is the same for every method.
    score: what is averaged; the bounds hold for ``prob``. A model that returns values has no probabilities: its values are averaged.
    Raises UsageError if a percentile removes all pixels.
    """
    least = _get_curve(inputs, rng, percentiles, noise, score, lowest=True)
    most = _get_curve(inputs, rng, percentiles, noise, score, lowest=False)
    return _score((least - most) / 2)


@metric(
    "road-morf",
    better="lower",
    unit="mean target probability",
    axis=AXIS,
    draws="road",
    forwards=_count_forwards,
    paper=ROAD,
)
def road_morf(
    inputs: MetricInput,
    *,
    rng: Streams,
    percentiles: Percentages = "10..90",
    noise: Noise = 0.01,
    score: RoadScore = "prob",
) -> Score:
    """Average the target's probability after the most relevant pixels are imputed from their neighbors.

    The curve contains the probability at each percentile.

    percentiles, noise, score: as in ``road``.
    """
    return _score(_get_curve(inputs, rng, percentiles, noise, score, lowest=False))


@metric(
    "road-lerf",
    better="higher",
    unit="mean target probability",
    axis=AXIS,
    draws="road",
    forwards=_count_forwards,
    paper=ROAD,
)
def road_lerf(
    inputs: MetricInput,
    *,
    rng: Streams,
    percentiles: Percentages = "10..90",
    noise: Noise = 0.01,
    score: RoadScore = "prob",
) -> Score:
    """Average the target's probability after the least relevant pixels are imputed from their neighbors.

    The curve is the probability at each percentile.

    percentiles, noise, score: as in ``road``.
    """
    return _score(_get_curve(inputs, rng, percentiles, noise, score, lowest=True))


def _score(curve: Tensor) -> Score:
    return Score(curve.mean(dim=1), curve)


def _get_curve(
    inputs: MetricInput, rng: Streams, percentiles: str, noise: float, score: RoadScore, *, lowest: bool
) -> Tensor:
    """Return the scores of the targets (B, K), which metrics of the same input share.

    lowest: remove the least relevant pixels, not the most relevant ones.
    """
    key = ("road", percentiles, noise, score, lowest)
    if key not in inputs.cache:
        streams = rng.child("lowest" if lowest else "highest")
        ranks = pixel_ranks(inputs.attributions, lowest=lowest)
        inputs.cache[key] = _compute_curve(inputs, streams, ranks, read_percentages(percentiles), noise, score)
    return inputs.cache[key]


def _compute_curve(
    inputs: MetricInput, rng: Streams, ranks: Tensor, percentiles: tuple[float, ...], noise: float, score: RoadScore
) -> Tensor:
    """Return the scores of the targets (B, K) after pixels are removed in the order of ``ranks`` (B, H, W)."""
    counts = torch.tensor(_count_removed(percentiles, ranks[0].numel()), device=ranks.device)
    samples = torch.tensor([round(percentile * 1000) for percentile in percentiles], device=ranks.device)
    kind = available_score(score, inputs.oracle.output) if score == "prob" else score
    curve = torch.zeros(len(ranks), len(percentiles), dtype=torch.float64, device=ranks.device)
    for block in inputs.oracle.blocks(inputs.images, len(percentiles)):
        removed = ranks[block.images, None, None] < counts[block.points, None, None, None]
        images = inputs.images[block.images].repeat_interleave(block.shape[1], dim=0)
        drawn = rng.take(block.images).normal(samples[block.points], tuple(images.shape[1:]), images.dtype)
        points = _impute_with_noise(images, removed.flatten(0, 1), noise * drawn.flatten(0, 1))
        scores = inputs.oracle.block_scores(block, points.unflatten(0, block.shape), inputs.y, kind)
        curve[block.images, block.points] = scores.double()
    return curve


def _impute_with_noise(images: Tensor, removed: Tensor, noise: Tensor) -> Tensor:
    """Return images (N, C, H, W) whose removed pixels (N, 1, H, W) are imputed and get ``noise`` (N, C, H, W)."""
    return impute(images, removed) + noise * removed


def _count_removed(percentiles: tuple[float, ...], pixels: int) -> list[int]:
    """Return the number of removed pixels at each percentile. Raises UsageError if all are removed."""
    counts = [round((100 - percentile) * pixels / 100) for percentile in percentiles]
    if counts[0] == pixels:
        raise UsageError(f"road: percentile {percentiles[0]:g} removes all {pixels} pixels", "use a higher percentile")
    return counts
