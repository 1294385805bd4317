"""ROAD: the target's probability while pixels are removed by noisy linear imputation, which leaves no trace of their shape."""

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

ROAD = Paper(
    "A consistent and efficient evaluation strategy for attribution methods",
    "Rong, Leemann, Borisov, Kasneci, Kasneci",
    2022,
    "ICML",
    "2202.00449",
)
AXIS = "percentiles, from the first to the last"
Noise = Annotated[float, Bounds(low=0)]
Kind = Literal["prob", "logit", "log-prob"]


def _rows(*, percentiles: str, **_: object) -> int:
    return len(read_percentages(percentiles))


@metric(
    "road",
    better="higher",
    bounds=(-0.5, 0.5),
    unit="target probability",
    axis=AXIS,
    draws="road",
    forwards=lambda **settings: 2 * _rows(**settings),
    paper=ROAD,
)
def road(
    inputs: MetricInput,
    *,
    rng: Streams,
    percentiles: Percentages = "10..90",
    noise: Noise = 0.01,
    score: Kind = "prob",
) -> Score:
    """Half the difference between removing the least and the most relevant pixels, which are imputed from their neighbours.

    At percentile p the round((100 - p)·N / 100) most relevant (MoRF) or least relevant (LeRF) of N pixels are removed, ranked by the sum
    over channels, ties in raster order; (LeRF - MoRF) / 2 is the curve, its mean over the percentiles the value. A removed pixel
    is the mean of its eight neighbours, weights 1/6 and diagonally 1/12, divided by their sum at the border, solved for all removed
    pixels at once, plus Gaussian noise (in pixel units), which is the same for every method. percentiles: ``10+50`` or
    ``10..90`` (in tens). The bounds are those of score=prob. Raises UsageError where no pixel is left to impute from.
    """
    least, most = (_curve(inputs, rng, percentiles, noise, score, lowest=lowest) for lowest in (True, False))
    return _score((least - most) / 2)


@metric(
    "road-morf",
    better="lower",
    unit="mean target probability",
    axis=AXIS,
    draws="road",
    forwards=_rows,
    paper=ROAD,
)
def road_morf(
    inputs: MetricInput, *, rng: Streams, percentiles: Percentages = "10..90", noise: Noise = 0.01, score: Kind = "prob"
) -> Score:
    """The mean probability of the target where the most relevant pixels are imputed from their neighbours.

    As ``road``; its curve is the probability at each percentile.
    """
    return _score(_curve(inputs, rng, percentiles, noise, score, lowest=False))


@metric(
    "road-lerf",
    better="higher",
    unit="mean target probability",
    axis=AXIS,
    draws="road",
    forwards=_rows,
    paper=ROAD,
)
def road_lerf(
    inputs: MetricInput, *, rng: Streams, percentiles: Percentages = "10..90", noise: Noise = 0.01, score: Kind = "prob"
) -> Score:
    """The mean probability of the target where the least relevant pixels are imputed from their neighbours.

    As ``road``; its curve is the probability at each percentile.
    """
    return _score(_curve(inputs, rng, percentiles, noise, score, lowest=True))


def _score(curve: Tensor) -> Score:
    return Score(curve.mean(dim=1), curve)


def _curve(inputs: MetricInput, rng: Streams, percentiles: str, noise: float, score: Kind, *, lowest: bool) -> Tensor:
    """(B, K) scores of the targets, kept for the other metrics of the inputs."""
    key = ("road", percentiles, noise, score, lowest)
    if key not in inputs.cache:
        inputs.cache[key] = _run(
            inputs, rng.child("lowest" if lowest else "highest"), percentiles, noise, score, lowest
        )
    return inputs.cache[key]


def _run(inputs: MetricInput, rng: Streams, percentiles: str, noise: float, score: Kind, lowest: bool) -> Tensor:
    shares = read_percentages(percentiles)
    ranks = pixel_ranks(inputs.attributions, lowest=lowest)[:, None]
    counts = torch.tensor(_counts(shares, ranks[0].numel()), device=ranks.device)
    samples = torch.tensor([round(share * 1000) for share in shares], device=ranks.device)
    curve = torch.zeros(len(ranks), len(shares), dtype=torch.float64, device=ranks.device)
    for block in inputs.oracle.blocks(inputs.images, len(shares)):
        removed = (ranks[block.images, None] < counts[block.points, None, None, None]).flatten(0, 1)
        images = inputs.images[block.images].repeat_interleave(block.shape[1], dim=0)
        drawn = rng.take(block.images).normal(samples[block.points], tuple(images.shape[1:]), images.dtype)
        points = (impute(images, removed) + noise * drawn.flatten(0, 1) * removed).unflatten(0, block.shape)
        curve[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y, score).double()
    return curve


def _counts(percentiles: tuple[float, ...], pixels: int) -> list[int]:
    """How many pixels are removed at each percentile."""
    counts = [round((100 - share) * pixels / 100) for share in percentiles]
    if counts[0] == pixels:
        raise UsageError(f"road: percentile {percentiles[0]:g} keeps none of {pixels} pixels", "give a higher one")
    return counts
