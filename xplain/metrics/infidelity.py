"""Infidelity: the error of an attribution as a linear prediction of score changes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UnknownMethodError
from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.scores import ContrastScore
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images
from xplain.oracle.targets import find_nearest_classes

Content = Literal["auto", "slopes", "contributions"]


@metric(
    "infidelity",
    better="lower",
    bounds=(0, float("inf")),
    unit="squared score",
    undefined="with normalize, where no perturbation overlaps the map",
    forwards=lambda *, perturbations, **_: perturbations + 1,
    paper=Paper(
        "On the (in)fidelity and sensitivity of explanations",
        "Chih-Kuan Yeh, Cheng-Yu Hsieh, Arun Suggala, David I. Inouye, Pradeep Ravikumar",
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
    """Compute the mean squared error of the attribution as a linear prediction of how perturbations change the score.

    E_I (<I, φ> - (f(x) - f(x - I)))² over ``perturbations`` random draws of I. 0 for the exact map of a linear model.
    A map of one channel holds one slope for all channels, or the sum of their contributions.

    perturbations: number of draws.
    kind: ``square`` replaces a square by the baseline x', at a random place inside the image; ``gaussian`` subtracts independent
    noise, which may leave the range [0, 1].
    size: side of the square, as a share of the shorter side of the image.
    sigma: standard deviation of the noise, in pixel units.
    baseline: x'; ``mean`` is the zero of the normalized input.
    content: what the map holds. ``slopes`` are used as they are. ``contributions`` already hold the factor x - x', so I is divided
    by x - x', or by 1 where that is 0. ``auto``: what the method declares.
    score: the score f; ``auto`` is the score that the method explains.
    normalize: scale φ by E <I, φ> Δf / E <I, φ>², so that the scale of the map does not matter; undefined (NaN) where
    that divides by zero.
    Raises UnknownMethodError if ``content`` is ``auto`` and the method is unknown.
    """
    slopes = _holds_slopes(inputs, content)
    score_kind = (inputs.score or "logit") if score == "auto" else score
    contrasts = _find_contrasts(inputs, score_kind)
    difference = inputs.images - make_fill_images(baseline, inputs)
    samples = torch.arange(perturbations, device=inputs.images.device)
    predicted = inputs.images.new_zeros(len(difference), perturbations, dtype=torch.float64)
    perturbed_scores = torch.zeros_like(predicted)
    for block in inputs.oracle.blocks(inputs.images, perturbations):
        streams, block_samples, away = rng.take(block.images), samples[block.points], difference[block.images]
        if kind == "gaussian":
            perturbation = _draw_noise(streams, block_samples, away, sigma)
        else:
            perturbation = _draw_squares(streams, block_samples, away, size)
        factor = None if slopes else away[:, None]
        attributions = inputs.attributions[block.images, None]
        predicted[block.images, block.points] = _predict_change(perturbation, factor, attributions)
        points = inputs.images[block.images, None] - perturbation
        scores = inputs.oracle.block_scores(block, points, inputs.y, score_kind, contrasts)
        perturbed_scores[block.images, block.points] = scores.double()
    scores = inputs.oracle.scores(inputs.images, inputs.y, kind=score_kind, against=contrasts)
    changes = scores.double()[:, None] - perturbed_scores
    return _score(predicted, changes, normalize=normalize)


def _find_contrasts(inputs: MetricInput, score: str) -> Tensor | None:
    """Return the contrast classes (B, A) of the score ``contrast``, chosen on the images if they are not known, else None."""
    contrast = ContrastScore.parse(score)
    if contrast is None or inputs.contrasts is not None:
        return None if contrast is None else inputs.contrasts
    return find_nearest_classes(inputs.oracle.logits(inputs.images, check=True), inputs.y, contrast.classes)


def _score(predicted: Tensor, changes: Tensor, *, normalize: bool) -> Score:
    """Return the mean squared error of the predicted score changes (B, K) against the actual ones (B, K)."""
    if not normalize:
        return Score((predicted - changes).square().mean(dim=1))
    missed = (predicted == 0).all(dim=1)
    scale = (predicted * changes).mean(dim=1) / predicted.square().mean(dim=1)
    values = (scale[:, None] * predicted - changes).square().mean(dim=1)
    return Score(values.masked_fill(missed, torch.nan), undefined={"no perturbation overlaps the map": missed})


def _holds_slopes(inputs: MetricInput, content: Content) -> bool:
    """Return whether the map contains gradients. Raise UnknownMethodError if ``content`` is ``auto`` and the method is unknown."""
    if content != "auto":
        return content == "slopes"
    if inputs.slopes is None:
        raise UnknownMethodError(
            "infidelity requires the kind of attribution (gradients or contributions)",
            "set content=slopes for gradients or content=contributions, or pass the method, for example method='saliency'",
            parameter="content=slopes or content=contributions",
        )
    return inputs.slopes


def _draw_noise(rng: Streams, samples: Tensor, away: Tensor, sigma: float) -> Tensor:
    """Return Gaussian noise (b, k, C, H, W) for images shaped like ``away`` (b, C, H, W)."""
    return sigma * rng.normal(samples, tuple(away.shape[1:]), away.dtype)


def _draw_squares(rng: Streams, samples: Tensor, away: Tensor, size: float) -> Tensor:
    """Return ``away`` (b, C, H, W), which is x - x', inside one random square per image and sample, else 0: (b, k, C, H, W)."""
    height, width = away.shape[-2:]
    side = max(round(size * min(height, width)), 1)
    drawn = rng.uniform(samples, (2,), away.dtype)
    rows = _draw_interval(drawn[..., 0, None], height, side)
    columns = _draw_interval(drawn[..., 1, None], width, side)
    return (rows[..., :, None] & columns[..., None, :])[:, :, None] * away[:, None]


def _draw_interval(drawn: Tensor, length: int, side: int) -> Tensor:
    """Return the mask (b, k, length) of ``side`` neighboring positions, placed by uniform numbers (b, k, 1)."""
    start = (drawn * (length - side + 1)).floor()
    position = torch.arange(length, device=drawn.device)
    return (position >= start) & (position < start + side)


def _predict_change(perturbation: Tensor, factor: Tensor | None, attributions: Tensor) -> Tensor:
    """Return the predicted score changes <I, φ> (b, k) of perturbations I (b, k, C, H, W).

    factor: (b, 1, C, H, W) divides I, for contributions; a map of one channel then takes the mean over the channels.
    """
    if factor is not None:
        perturbation = perturbation / factor.masked_fill(factor == 0, 1)
        if attributions.shape[2] == 1:
            perturbation = perturbation.mean(dim=2, keepdim=True)
    return (perturbation * attributions).sum(dim=(2, 3, 4), dtype=torch.float64)
