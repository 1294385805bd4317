"""Average drop, average gain and increase in confidence: the score of the image multiplied by the map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._parts import pixel_values
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images

Baseline = Literal["mean", "black", "blur"]
Sign = Literal["signed", "positive"]
GRAD_CAM_PLUS_PLUS = Paper(
    "Grad-CAM++: improved visual explanations for deep convolutional networks",
    "Aditya Chattopadhay, Anirban Sarkar, Prantik Howlader, Vineeth N. Balasubramanian",
    2018,
    "WACV",
    "1710.11063",
)
OPTI_CAM = Paper(
    "Opti-CAM: optimizing saliency maps for interpretability",
    "Hanwei Zhang, Felipe Torres, Ronan Sicre, Yannis Avrithis, Stephane Ayache",
    2024,
    "Computer Vision and Image Understanding",
    "2301.07002",
    journal=True,
)
NOT_POSITIVE = "the score of the image is not positive"
CERTAIN = "the probability of the image is 1"


def _count_forwards(**_: object) -> int:
    return 2


@metric(
    "average-drop",
    better="lower",
    unit="share of the score",
    forwards=_count_forwards,
    undefined="where the score of the image is not positive",
    paper=GRAD_CAM_PLUS_PLUS,
)
def average_drop(inputs: MetricInput, *, baseline: Baseline = "mean", sign: Sign = "signed") -> Score:
    """Compute the share of the target's probability that is lost when the image is multiplied by the map.

    max(0, Y - O) / Y, where Y is the probability of the image x and O that of m x + (1 - m) u. m is the sum over channels, scaled to
    [0, 1] by its minimum and maximum; m = 0 for a constant map. The average over images is the published figure.
    A map that is nearly 1 everywhere loses nothing: report ``complexity`` and the control ``center`` too.

    baseline: u, which replaces what the map hides; ``mean`` is the zero of the normalized input.
    sign: ``positive`` sets negative sums to 0 first.
    """
    original, masked = _read_scores(inputs, baseline, sign)
    undefined = original <= 0
    drop = (original - masked).clamp(min=0) / original.where(~undefined, 1)
    return Score(drop.masked_fill(undefined, torch.nan), undefined={NOT_POSITIVE: undefined})


@metric(
    "average-gain",
    better="higher",
    unit="share of the possible gain",
    forwards=_count_forwards,
    undefined="where the probability of the image is 1",
    paper=OPTI_CAM,
)
def average_gain(inputs: MetricInput, *, baseline: Baseline = "mean", sign: Sign = "signed") -> Score:
    """Compute the share of the missing probability that is gained when the image is multiplied by the map.

    max(0, O - Y) / (1 - Y), the counterpart of ``average-drop``.

    baseline, sign: as in ``average-drop``.
    Raises UsageError if the model has no probabilities.
    """
    if not inputs.oracle.output.has_probabilities:
        hint = "use average-drop, or --activation sigmoid if the output is a logit"
        raise UsageError("average-gain requires a model with probabilities", hint)
    original, masked = _read_scores(inputs, baseline, sign)
    undefined = original >= 1
    gain = (masked - original).clamp(min=0) / (1 - original).where(~undefined, 1)
    return Score(gain.masked_fill(undefined, torch.nan), undefined={CERTAIN: undefined})


@metric(
    "increase-in-confidence",
    better="higher",
    unit="share of images",
    forwards=_count_forwards,
    paper=GRAD_CAM_PLUS_PLUS,
)
def increase_in_confidence(inputs: MetricInput, *, baseline: Baseline = "mean", sign: Sign = "signed") -> Score:
    """Test whether the target's probability rises when the image is multiplied by the map: 1 or 0.

    1 if O > Y, with the symbols of ``average-drop``.

    baseline, sign: as in ``average-drop``.
    """
    original, masked = _read_scores(inputs, baseline, sign)
    return Score((masked > original).double())


def _read_scores(inputs: MetricInput, baseline: Baseline, sign: Sign) -> tuple[Tensor, Tensor]:
    """Return the scores (B,) of the images and of the masked images, which metrics of the same input share."""
    key = ("masked", baseline, sign)
    if key not in inputs.cache:
        mask = _scale_to_mask(pixel_values(inputs.attributions), sign)[:, None].to(inputs.images)
        masked = mask * inputs.images + (1 - mask) * make_fill_images(baseline, inputs)
        scores = torch.zeros(len(masked), 2, dtype=torch.float64, device=masked.device)
        for block in inputs.oracle.blocks(inputs.images, 2):
            points = torch.stack([inputs.images[block.images], masked[block.images]], dim=1)[:, block.points]
            scores[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y).double()
        inputs.cache[key] = scores
    original, masked_score = inputs.cache[key].unbind(dim=1)
    return original, masked_score


def _scale_to_mask(values: Tensor, sign: Sign) -> Tensor:
    """Return values (B, H, W) scaled to [0, 1]; 0 where they are constant."""
    if sign == "positive":
        values = values.clamp(min=0)
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    span = high - low
    return (values - low) / span.where(span > 0, 1)
