"""Infidelity: how far an attribution is from predicting what perturbations of the image do to the score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images

Content = Literal["auto", "slopes", "contributions"]


@metric(
    "infidelity",
    better="lower",
    bounds=(0, float("inf")),
    unit="squared score",
    undefined="with normalize, where no perturbation meets the map",
    forwards=lambda *, perturbations, **_: perturbations + 1,
    paper=Paper(
        "On the (in)fidelity and sensitivity of explanations",
        "Yeh, Hsieh, Suggala, Inouye, Ravikumar",
        2019,
        "NeurIPS",
        "1901.09392",
    ),
)
def infidelity(
    inputs: MetricInput,
    *,
    rng: Streams,
    perturbations: Steps = 100,
    kind: Literal["square", "gaussian"] = "square",
    size: Fraction = 0.25,
    sigma: Positive = 0.1,
    baseline: Literal["black", "mean", "blur"] = "black",
    content: Content = "auto",
    score: Literal["auto", "logit", "prob", "log-prob", "margin"] = "auto",
    normalize: bool = False,
) -> Score:
    """The mean squared error of the attribution as a linear prediction of what random perturbations do to the score.

    E_I (<I, φ> - (f(x) - f(x - I)))² over ``perturbations`` draws. kind: ``square`` puts the baseline x' into a square of ``size``
    times the shorter side, anywhere inside the image; ``gaussian`` is independent noise of ``sigma``, in pixel units, not cut at 0
    and 1. content: for ``contributions``, which hold the factor x - x' already, I is divided by x - x' value by value (by 1 where
    that is 0); ``slopes`` are taken as they are; ``auto`` is what the method claims. score: what f is; ``auto`` is what the
    method explains. A map without colour holds one slope for all channels, or the sum of their contributions.
    normalize: scale φ by E <I, φ> Δf / E <I, φ>², so that its scale does not matter; undefined (NaN) where that divides by
    zero. 0 for the exact map of a linear model. Raises UsageError for ``auto`` where the method is not known.
    """
    slopes = _holds_slopes(inputs, content)
    away = inputs.images - make_fill_images(baseline, inputs)
    explained = (inputs.score or "logit") if score == "auto" else score
    predicted = inputs.images.new_zeros(len(away), perturbations, dtype=torch.float64)
    changed = torch.zeros_like(predicted)
    samples = torch.arange(perturbations, device=inputs.images.device)
    for block in inputs.oracle.blocks(inputs.images, perturbations):
        streams, drawn, far = rng.take(block.images), samples[block.points], away[block.images]
        moves = _noise(streams, drawn, far, sigma) if kind == "gaussian" else _holes(streams, drawn, far, size)
        factor = None if slopes else far[:, None]
        predicted[block.images, block.points] = _predict(moves, factor, inputs.attributions[block.images, None])
        points = inputs.images[block.images, None] - moves
        changed[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y, explained).double()
    changed = inputs.oracle.scores(inputs.images, inputs.y, kind=explained).double()[:, None] - changed
    if not normalize:
        return Score((predicted - changed).square().mean(dim=1))
    blind = (predicted == 0).all(dim=1)
    scale = (predicted * changed).mean(dim=1) / predicted.square().mean(dim=1)
    values = (scale[:, None] * predicted - changed).square().mean(dim=1)
    return Score(values.masked_fill(blind, torch.nan), undefined={"no perturbation meets the map": blind})


def _holds_slopes(inputs: MetricInput, content: Content) -> bool:
    if content == "auto" and inputs.slopes is None:
        hint = "give content=slopes (gradients), content=contributions, or the method: method='saliency'"
        raise UsageError("infidelity must know what the map holds", hint)
    return bool(inputs.slopes) if content == "auto" else content == "slopes"


def _noise(rng: Streams, samples: Tensor, away: Tensor, sigma: float) -> Tensor:
    """(b, k, C, H, W) Gaussian."""
    return sigma * rng.normal(samples, tuple(away.shape[1:]), away.dtype)


def _holes(rng: Streams, samples: Tensor, away: Tensor, size: float) -> Tensor:
    """(b, k, C, H, W) x - x', which is ``away`` (b, C, H, W), in one square an image and sample, uniformly inside the image."""
    height, width = away.shape[-2:]
    side = max(round(size * min(height, width)), 1)
    drawn = rng.uniform(samples, (2,), away.dtype)
    inside = []
    for k, length in enumerate((height, width)):
        start = (drawn[..., k, None] * (length - side + 1)).floor()
        place = torch.arange(length, device=away.device)
        inside.append((place >= start) & (place < start + side))
    return (inside[0][..., :, None] & inside[1][..., None, :])[:, :, None] * away[:, None]


def _predict(moves: Tensor, factor: Tensor | None, attributions: Tensor) -> Tensor:
    """(b, k) <I, φ>; for contributions I over ``factor``, and its mean over channels where the map has no colour."""
    if factor is not None:
        moves = moves / factor.masked_fill(factor == 0, 1)
        if attributions.shape[2] == 1:
            moves = moves.mean(dim=2, keepdim=True)
    return (moves * attributions).sum(dim=(2, 3, 4), dtype=torch.float64)
