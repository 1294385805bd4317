"""DiffID: how much better a model recognizes images without their least important values than without their most important ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Percentages, read_percentages
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.data.filters import gaussian_weights
from xplain.metrics._ranking import ranks
from xplain.metrics.inputs import MetricInput
from xplain.oracle.batching import Block

Variant = Literal["sig", "lpi", "pixel"]
Readout = Literal["accuracy", "retention", "logit-ratio"]
Baseline = Literal["kept-mean", "mean", "blur"]
BLUR_SIGMA, BLUR_RADIUS = 5.0, 5  # 11 x 11 pixels
ONE_CHANNEL = "the map has one value per pixel, which variant=sig does not rank"
NO_RATIO = "the score of the image is not positive"


def _count_forwards(*, fractions: str, readout: Readout, **_: object) -> int:
    return 2 * len(read_percentages(fractions)) + (readout != "accuracy")


@metric(
    "diffid",
    better="higher",
    bounds=(-1, 1),
    unit="accuracy",
    axis="removed fraction",
    undefined="with variant=sig, for maps of one channel of images with several; with a ratio, where the image's score is not positive",
    forwards=_count_forwards,
    paper=Paper(
        "Local path integration for attribution",
        "Peiyu Yang, Naveed Akhtar, Zeyi Wen, Ajmal Mian",
        2023,
        "AAAI",
        doi="10.1609/aaai.v37i3.25422",
    ),
    deviations="Equal values keep raster order in both games, so that a constant map scores 0; the authors' sort is unstable.",
)
def diffid(
    inputs: MetricInput,
    *,
    variant: Variant = "sig",
    readout: Readout = "accuracy",
    baseline: Baseline = "kept-mean",
    fractions: Percentages = "10..90",
    absolute: bool = False,
) -> Score:
    """Subtract the accuracy without the most important values from the accuracy without the least important ones.

    At percentage r the floor(r·M / 100) lowest (LeRF) or highest (MoRF) of M units are replaced. The curve is q(LeRF) - q(MoRF) at
    each percentage, the value its mean. A random map scores 0 on average. The papers explain the label of the data set
    (``--target label``), and count wrongly classified images too.

    variant: the units and their order. ``sig`` ranks the C·H·W values of the image by |φ| (the code of Spectral IG and MA-GIG).
    ``lpi`` ranks the same values by Σ_c |φ|, so that the channels of a pixel tie (the code of LPI, which introduced DiffID). ``pixel``
    ranks and replaces whole pixels by the signed sum over channels, or by its magnitude if ``absolute``; the others ignore ``absolute``.
    readout: what q is. ``accuracy`` is 1 if the model decides for the target, else 0; ``retention`` is min(1, p(changed) / p(image)) of the
    target's probability, and ``logit-ratio`` the ratio of its logits, which is unbounded.
    baseline: what replaces values, in the space of the normalized input. ``kept-mean``: the mean of all values that are kept, over all
    channels together; it differs between the two games. ``mean``: zero. ``blur``: an 11 x 11 Gaussian with sigma 5, with reflected borders.
    fractions: percentages of units to replace, ``10+30+50``, or ``10..90`` (in steps of ten).
    absolute: rank the pixels of variant=pixel by the magnitude of their sums.
    Raises UsageError if the model has no decisions or probabilities that the readout requires, or if a percentage replaces everything.
    """
    _check_readout(inputs, readout)
    values = _order_values(inputs, variant, absolute)
    percentages = read_percentages(fractions)
    if values is None:
        return _undefined_score(inputs, len(percentages))
    counts = _count_replaced(percentages, values[0].numel())
    least, most = _read_games(inputs, values, counts, readout, baseline).chunk(2, dim=1)
    if readout == "accuracy":
        curve = least - most
        return Score(curve.mean(dim=1), curve)
    original = inputs.oracle.scores(inputs.images, inputs.y, kind=_score_kind(readout)).double()[:, None]
    least, most = least / original, most / original
    curve = least.clamp(max=1) - most.clamp(max=1) if readout == "retention" else least - most
    undefined = original[:, 0] <= 0
    curve = curve.masked_fill(undefined[:, None], torch.nan)
    return Score(curve.mean(dim=1), curve, undefined={NO_RATIO: undefined})


def _check_readout(inputs: MetricInput, readout: Readout) -> None:
    """Raise UsageError if the readout is not defined for the output of the model."""
    output = inputs.oracle.output
    hint = "use readout=logit-ratio, or --activation sigmoid if the output is a logit"
    if readout == "accuracy" and not output.has_decisions:
        raise UsageError("diffid: readout=accuracy requires a model that decides for a class", hint)
    if readout == "retention" and not output.has_probabilities:
        raise UsageError("diffid: readout=retention requires a model with probabilities", hint)


def _score_kind(readout: Readout) -> Literal["prob", "logit"]:
    return "prob" if readout == "retention" else "logit"


def _order_values(inputs: MetricInput, variant: Variant, absolute: bool) -> Tensor | None:
    """Return the values (B, C or 1, H, W) by which units are ranked, or None if the variant does not rank such maps."""
    attributions = inputs.attributions
    if variant == "pixel":
        sums = attributions.sum(dim=1, keepdim=True)
        return sums.abs() if absolute else sums
    if variant == "lpi":
        return attributions.abs().sum(dim=1, keepdim=True).expand_as(inputs.images)
    return attributions.abs() if attributions.shape == inputs.images.shape else None


def _undefined_score(inputs: MetricInput, points: int) -> Score:
    curve = torch.full((len(inputs.images), points), torch.nan, dtype=torch.float64, device=inputs.images.device)
    return Score(curve.mean(dim=1), curve, undefined={ONE_CHANNEL: curve.isnan().any(dim=1)})


def _count_replaced(percentages: Sequence[float], units: int) -> list[int]:
    """Return the number of replaced units at each percentage. Raises UsageError if all are replaced."""
    counts = [int(percentage * units / 100) for percentage in percentages]
    if counts[-1] == units:
        text = f"diffid: fraction {percentages[-1]:g} replaces all {units} values"
        raise UsageError(text, "use percentages below 100")
    return counts


def _read_games(
    inputs: MetricInput, values: Tensor, counts: Sequence[int], readout: Readout, baseline: Baseline
) -> Tensor:
    """Return accuracies or scores (B, 2K) without the lowest, then without the highest units, K numbers of units each."""
    images, oracle = inputs.images, inputs.oracle
    lowest, highest = (
        ranks(values.flatten(1), lowest=lowest).reshape(values.shape).expand_as(images) for lowest in (True, False)
    )
    limits = torch.tensor([*counts, *counts], device=images.device)[:, None, None, None]
    is_lowest = torch.arange(len(limits), device=images.device)[:, None, None, None] < len(counts)
    mean = oracle.mean_color(images).to(images)
    scale = oracle.color_scale(images).to(images)
    blurred = _blur(images) if baseline == "blur" else images
    results = torch.zeros(len(images), len(limits), dtype=torch.float64, device=images.device)
    for block in oracle.blocks(images, len(limits)):
        places = torch.where(is_lowest[block.points], lowest[block.images, None], highest[block.images, None])
        kept = places >= limits[block.points]
        rows = images[block.images, None]
        if baseline == "kept-mean":
            filling = _kept_means((rows - mean) / scale, kept) * scale + mean
        else:
            filling = mean if baseline == "mean" else blurred[block.images, None]
        results[block.images, block.points] = _read(inputs, block, torch.where(kept, rows, filling), readout)
    return results


def _read(inputs: MetricInput, block: Block, points: Tensor, readout: Readout) -> Tensor:
    """Return the accuracies or scores (b, k) at the points (b, k, C, H, W) of a block."""
    if readout != "accuracy":
        return inputs.oracle.block_scores(block, points, inputs.y, _score_kind(readout)).double()
    row = block.image_indices(points.device)
    decisions = inputs.oracle.decides(points.flatten(0, 1), inputs.y[row], row)
    return decisions.double().unflatten(0, block.shape)


def _kept_means(normalized: Tensor, kept: Tensor) -> Tensor:
    """Return the means (b, k, 1, 1, 1) of the normalized images (b, 1, C, H, W) where ``kept`` (b, k, C, H, W) is true."""
    dims = (2, 3, 4)
    sums = torch.where(kept, normalized, 0).sum(dim=dims, keepdim=True, dtype=torch.float64)
    return (sums / kept.sum(dim=dims, keepdim=True)).to(normalized)


def _blur(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) convolved with an 11 x 11 Gaussian, with borders reflected without the edge pixel."""
    channels, height, width = images.shape[1:]
    if min(height, width) <= BLUR_RADIUS:
        text = f"diffid: baseline=blur requires more than {BLUR_RADIUS} x {BLUR_RADIUS} pixels, not {height} x {width}"
        raise UsageError(text, "use baseline=kept-mean or baseline=mean")
    line = gaussian_weights(BLUR_SIGMA, BLUR_RADIUS)
    kernel = torch.outer(line, line).to(images).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(images, [BLUR_RADIUS] * 4, mode="reflect"), kernel, groups=channels)
