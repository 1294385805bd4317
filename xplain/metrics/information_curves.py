"""Performance information curves (AIC, SIC): how a blurred image is recognized as its important pixels are restored."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Percentages, read_percentages
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics._interpolation import interpolate_batch
from xplain.metrics.inputs import MetricInput
from xplain.metrics.sensitivity_n import draw_subsets

KNOWN = 0.01  # share of pixels that the blurred image keeps
STEPS = 1000  # of a curve over its axis
WEBP_CHANNELS = (1, 3)
XRAI = Paper(
    "XRAI: better attributions through regions",
    "Andrei Kapishnikov, Tolga Bolukbasi, Fernanda Viégas, Michael Terry",
    2019,
    "ICCV",
    "1906.02825",
)
Order = Literal["signed", "absolute"]
Floats = NDArray[np.floating[Any]]


def _count_forwards(*, thresholds: str, **_: object) -> int:
    return len(read_percentages(thresholds)) + 2


@metric(
    "aic",
    better="higher",
    unit="area under accuracy by information",
    axis="fraction of information",
    draws="information-curves",
    undefined="for values without a threshold, and where the image is not classified as the target, is not larger than its blurred "
    "version, or the blurred version is classified as the target too, and for images that are neither RGB nor gray",
    forwards=_count_forwards,
    paper=XRAI,
)
def aic(
    inputs: MetricInput,
    *,
    rng: Streams,
    thresholds: Percentages = "0.5+1+2+3+4+5+7+10+13+21+34+50+75",
    min_probability: Fraction = 0.8,
    order: Order = "signed",
    monotone: bool = True,
) -> Score:
    """Compute the area under the accuracy information curve.

    As ``sic``, but the performance is 1 if the model decides for the target, else 0. ``min_probability`` is compared with this
    performance, as in the authors' code, so any value above 0 excludes images that are not classified as the target.

    thresholds, min_probability, order, monotone: as in ``sic``.
    """
    if not inputs.oracle.output.has_decisions:
        values = torch.full_like(inputs.y, torch.nan, dtype=torch.float64)
        return Score(values, undefined={"the model returns values without a threshold": values.isnan()})
    if inputs.images.shape[1] not in WEBP_CHANNELS:
        return _undefined_score(inputs)
    information, _, is_decided = _get_points(inputs, rng, thresholds, order)
    reasons = ("the image is not classified as the target", "the blurred image is classified as the target")
    return _score(information, is_decided, reasons, min_probability, monotone)


@metric(
    "sic",
    better="higher",
    unit="area under probability by information",
    axis="fraction of information",
    draws="information-curves",
    undefined="where the target's probability is under min_probability or no higher than for the blurred image, or the image "
    "is not larger than its blurred version, and for images that are neither RGB nor gray",
    forwards=_count_forwards,
    paper=XRAI,
)
def sic(
    inputs: MetricInput,
    *,
    rng: Streams,
    thresholds: Percentages = "0.5+1+2+3+4+5+7+10+13+21+34+50+75",
    min_probability: Fraction = 0.8,
    order: Order = "signed",
    monotone: bool = True,
) -> Score:
    """Compute the area under the softmax information curve.

    The blurred image keeps the corners and 1 % of the pixels, which are drawn at random and are the same for every method; the
    other pixels are interpolated linearly between them. At each threshold, the pixels with the highest attributions
    (summed over channels) are restored as well.
    Information is the size as lossless WebP and performance the probability. Both are scaled to 0 for the blurred image and 1
    for the image, and clipped to [0, 1]. The curve connects (0, 0), the points of all thresholds in order of information, and
    (1, 1), at 1001 positions; the value is its area by the trapezoidal rule.
    The paper's score of a data set is the area under the median curve, not the mean of the areas. Undefined (NaN), with a
    separate reason each, if the probability of the image is below ``min_probability``, if it is not higher than that of the blurred
    image, or if the image is not larger than the blurred one. ``aic`` has other conditions and so excludes other images.
    Images that are neither RGB nor gray are undefined too. Images are rounded to 8 bits. Sizes depend on the version of libwebp, which
    the run records.

    thresholds: percentages of pixels to restore; all pixels that tie at the quantile are restored.
    min_probability: exclude images with a lower probability of the target; ignored if the model returns values.
    order: rank pixels by the ``signed`` sum, or by its ``absolute`` value (as the authors' notebook does).
    monotone: use the best performance up to each threshold.
    """
    if inputs.images.shape[1] not in WEBP_CHANNELS:
        return _undefined_score(inputs)
    information, probabilities, _ = _get_points(inputs, rng, thresholds, order)
    has_probabilities = inputs.oracle.output.has_probabilities
    name = "probability" if has_probabilities else "value"
    reasons = (
        "the target's probability is below min_probability",
        f"the target's {name} is not lower for the blurred image",
    )
    least = min_probability if has_probabilities else -torch.inf
    return _score(information, probabilities, reasons, least, monotone)


def _undefined_score(inputs: MetricInput) -> Score:
    """Return undefined values for images that WebP cannot compress."""
    values = inputs.images.new_full((len(inputs.images),), torch.nan, dtype=torch.float64)
    return Score(values, undefined={f"the image has {inputs.images.shape[1]} bands": values.isnan()})


def _get_points(inputs: MetricInput, rng: Streams, thresholds: str, order: Order) -> Tensor:
    """Return the points of the curves (3, B, K+2), which ``aic`` and ``sic`` share.

    First axis: information, probability (or value) of the target, and 1 if the model decides for the target. Last axis: the blurred image,
    K thresholds, the image.
    """
    key = ("information curves", thresholds, order)
    if key not in inputs.cache:
        masks = _make_masks(inputs, rng, read_percentages(thresholds), order)
        inputs.cache[key] = _evaluate_masks(inputs, masks)
    return inputs.cache[key]


def _make_masks(inputs: MetricInput, rng: Streams, thresholds: tuple[float, ...], order: Order) -> NDArray[np.bool_]:
    """Return the known pixels (B, K+2, H, W): random ones, these and the highest up to each threshold, all."""
    values = inputs.attributions.double().sum(dim=1).cpu().numpy()
    if order == "absolute":
        values = np.abs(values)
    quantiles = np.quantile(values, [1 - threshold / 100 for threshold in thresholds], axis=(1, 2))
    pixels = values[0].size
    sample = torch.ones(1, dtype=torch.int64, device=inputs.images.device)
    subset = draw_subsets(rng, sample, sample * int(KNOWN * pixels), pixels)
    random = subset.reshape(len(values), 1, *values.shape[1:]).cpu().numpy()
    highest = values[:, None] >= quantiles.T[:, :, None, None]
    return np.concatenate([random, random | highest, np.ones_like(random)], axis=1)


def _evaluate_masks(inputs: MetricInput, known: NDArray[np.bool_]) -> Tensor:
    """Return the points of the curves (3, B, K) for the known pixels (B, K, H, W); first axis as in ``_get_points``."""
    colors = inputs.images.expand(-1, 3, -1, -1)  # gray has three equal channels
    pixels = (colors * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    output = inputs.oracle.output
    points = inputs.images.new_zeros(3, *known.shape[:2], dtype=torch.float64)
    for block in inputs.oracle.blocks(inputs.images, known.shape[1]):
        interpolated, sizes = interpolate_batch(pixels[block.images], known[block.images, block.points])
        rows = (
            torch.from_numpy(interpolated)
            .to(inputs.images.device)
            .flatten(0, 1)
            .permute(0, 3, 1, 2)[:, : inputs.images.shape[1]]
        )
        logits = inputs.oracle.logits(rows.to(inputs.images.dtype) / 255).double().unflatten(0, block.shape)
        target = inputs.y[block.images, None, None].expand(*block.shape, 1)
        probabilities = output.probabilities(logits).gather(2, target)[..., 0]
        is_decided = torch.zeros_like(probabilities, dtype=torch.bool)
        if output.has_decisions:
            is_decided = output.decisions(logits).gather(2, target)[..., 0]
        information = torch.from_numpy(sizes).to(probabilities)
        values = torch.stack([information, probabilities, is_decided.to(probabilities)])
        points[:, block.images, block.points] = values
    return points


def _score(
    information: Tensor, performance: Tensor, reasons: tuple[str, str], min_performance: float, monotone: bool
) -> Score:
    """Return the areas under the curves of performance (B, K + 2) against information (B, K + 2).

    reasons: reasons for undefined values: the performance on the image is too low, and the performance on the blurred image is
    not lower.
    """
    is_low = performance[:, -1] < min_performance
    is_better = performance[:, -1] > performance[:, 0]
    is_larger = information[:, -1] > information[:, 0]
    undefined = {
        reasons[0]: is_low,
        "the image is not larger than its blurred version": ~is_larger & ~is_low,
        reasons[1]: ~is_better & is_larger & ~is_low,
    }
    x = _normalize(information)[:, 1:-1].cpu().numpy()
    y = _normalize(performance)[:, 1:-1].cpu().numpy()
    if monotone:
        y = np.maximum.accumulate(y, axis=1)
    curves = np.stack([_resample_curve(*points) for points in zip(x, y, strict=True)])
    is_undefined = is_low | ~is_better | ~is_larger
    curve = torch.from_numpy(curves).to(information).masked_fill(is_undefined[:, None], torch.nan)
    return Score(torch.trapezoid(curve, dx=1 / STEPS, dim=1), curve, undefined=undefined)


def _normalize(values: Tensor) -> Tensor:
    """Return values (B, K+2) scaled to 0 for the first and 1 for the last, and clipped; NaN where these are equal."""
    first, last = values[:, :1], values[:, -1:]
    return ((values - first) / (last - first)).clamp(0, 1)


def _resample_curve(x: Floats, y: Floats) -> Floats:
    """Return the performance (STEPS + 1,) at evenly spaced information, linear between (0, 0), the points (x, y), and (1, 1).

    x, y: (K,). Points with equal x are sorted by threshold, with the corner last. The curve reaches the first of them from
    the left and continues from the last to the right, so performance at no information or at the image's information is ignored.
    """
    x, y = np.append(x, [0.0, 1.0]), np.append(y, [0.0, 1.0])
    order = np.argsort(x, kind="stable")
    return np.interp(np.arange(STEPS + 1) / STEPS, x[order], y[order])
