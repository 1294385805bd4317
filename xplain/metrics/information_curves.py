"""Performance information curves: how soon a model recognises a blurred image whose important pixels are made sharp."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Percentages, read_percentages
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput
from xplain.metrics.sensitivity_n import draw_subsets

KNOWN = 0.01  # of the pixels are kept in the blurred image
POINTS = 1000  # steps of a curve over its axis
XRAI = Paper(
    "XRAI: better attributions through regions", "Kapishnikov, Bolukbasi, Viégas, Terry", 2019, "ICCV", "1906.02825"
)
Order = Literal["signed", "absolute"]
Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)


def _rows(*, thresholds: str, **_: object) -> int:
    return len(read_percentages(thresholds)) + 2


@metric(
    "aic",
    better="higher",
    unit="area under accuracy by information",
    axis="share of the information",
    draws="information-curves",
    undefined="where the image is not classified as the target, is not larger than its blurred version, or the blurred "
    "version is classified as the target too",
    forwards=_rows,
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
    """The area under the accuracy information curve: top class or not, by how much information the image holds.

    As ``sic`` with the performance 1 where the top class is the target and 0 elsewhere; ``min_probability`` is compared with
    that performance, as in the authors' program, so that any value over 0 leaves out what is classified otherwise.
    """
    (sizes, _, hits) = _measure(inputs, rng, thresholds, order)
    reasons = ("the image is not classified as the target", "the blurred image is classified as the target")
    return _score(sizes, hits, reasons, min_probability, monotone)


@metric(
    "sic",
    better="higher",
    unit="area under probability by information",
    axis="share of the information",
    draws="information-curves",
    undefined="where the target's probability is under min_probability or no higher than for the blurred image, or the image "
    "is not larger than its blurred version",
    forwards=_rows,
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
    """The area under the softmax information curve: the target's probability, by how much information the image holds.

    The blurred image keeps 1 % of the pixels, drawn at random and the same for every method, and the corners; the others are
    interpolated linearly between them. For each threshold (a percentage) the pixels whose attribution, summed over channels,
    reaches the quantile are made known too. Information is the size as lossless WebP, performance the probability; both
    are taken relative to the blurred image (0) and the image (1) and cut to [0, 1]. The curve runs through (0, 0), these
    points in order of information, and (1, 1), on 1001 places; the value is its area (trapezoid). Ties at a quantile are all kept.
    order: ``absolute`` ranks the size of the sum (the authors' notebook). monotone: the performance at a threshold is the
    best up to it. A data set's score in the paper is the area under the median curve, not the mean of the areas.
    Undefined (NaN), for reasons that are counted apart: the performance of the image is under ``min_probability``; it is not
    higher than that of the blurred image; the image is not larger than the blurred one. ``aic`` has other reasons, hence
    other images. Images are taken in 8 bits. Sizes depend on the version of libwebp, which the run records.
    """
    (sizes, chances, _) = _measure(inputs, rng, thresholds, order)
    reasons = ("the target's probability is under min_probability", "the blurred image has no lower probability")
    return _score(sizes, chances, reasons, min_probability, monotone)


def _measure(inputs: MetricInput, rng: Streams, thresholds: str, order: Order) -> Tensor:
    """(3, B, K+2) information, probability of the target, and whether it is the top class: blurred, K thresholds, image.

    Kept for the other of the two metrics.
    """
    key = ("information curves", thresholds, order)
    if key not in inputs.cache:
        inputs.cache[key] = _look(inputs, _known(inputs, rng, read_percentages(thresholds), order))
    return inputs.cache[key]


def _known(inputs: MetricInput, rng: Streams, thresholds: tuple[float, ...], order: Order) -> NDArray[np.bool_]:
    """(B, K+2, H, W) the pixels that are known: random ones, those and the highest by each threshold, all."""
    values = inputs.attributions.double().sum(dim=1).cpu().numpy()
    values = np.abs(values) if order == "absolute" else values
    edges = np.quantile(values, [1 - share / 100 for share in thresholds], axis=(1, 2))
    one = torch.ones(1, dtype=torch.int64, device=inputs.images.device)
    pixels = values[0].size
    drawn = (
        draw_subsets(rng, one, one * int(KNOWN * pixels), pixels)
        .reshape(len(values), 1, *values.shape[1:])
        .cpu()
        .numpy()
    )
    highest = values[:, None] >= edges.T[:, :, None, None]
    return np.concatenate([drawn, drawn | highest, np.ones_like(drawn)], axis=1)


def _look(inputs: MetricInput, known: NDArray[np.bool_]) -> Tensor:
    """(3, B, K) information, probability of the target, and whether it is the top class, for each mask (B, K, H, W)."""
    pixels = (inputs.images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = inputs.images.new_zeros(3, *known.shape[:2], dtype=torch.float64)
    for block in inputs.oracle.blocks(inputs.images, known.shape[1]):
        shown, sizes = reveal_all(pixels[block.images], known[block.images, block.points])
        rows = torch.from_numpy(shown).to(inputs.images.device).flatten(0, 1).permute(0, 3, 1, 2)
        logits = inputs.oracle.logits(rows.to(inputs.images.dtype) / 255).double().unflatten(0, block.shape)
        target = inputs.y[block.images, None, None].expand(*block.shape, 1)
        chances = logits.softmax(dim=2).gather(2, target)[..., 0]
        hits = (logits.argmax(dim=2, keepdim=True) == target)[..., 0]
        values = torch.stack([torch.from_numpy(sizes).to(chances), chances, hits.to(chances)])
        found[:, block.images, block.points] = values
    return found


def _score(sizes: Tensor, performance: Tensor, reasons: tuple[str, str], least: float, monotone: bool) -> Score:
    """The areas under the curves of performance by information, both (B, K+2)."""
    low = performance[:, -1] < least
    better = performance[:, -1] > performance[:, 0]
    larger = sizes[:, -1] > sizes[:, 0]
    undefined = {
        reasons[0]: low,
        "the image is not larger than its blurred version": ~larger & ~low,
        reasons[1]: ~better & larger & ~low,
    }
    x, y = (_relative(each)[:, 1:-1].cpu().numpy() for each in (sizes, performance))
    y = np.maximum.accumulate(y, axis=1) if monotone else y
    curves = torch.from_numpy(np.stack([_curve(*each) for each in zip(x, y, strict=True)])).to(sizes)
    curves = curves.masked_fill((low | ~better | ~larger)[:, None], torch.nan)
    return Score(torch.trapezoid(curves, dx=1 / POINTS, dim=1), curves, undefined=undefined)


def _relative(values: Tensor) -> Tensor:
    """(B, K+2) where values lie between the first, 0, and the last, 1; cut to that. NaN where these are equal."""
    first, last = values[:, :1], values[:, -1:]
    return ((values - first) / (last - first)).clamp(0, 1)


def _curve(x: Floats, y: Floats) -> Floats:
    """(POINTS + 1,) performance at even places, linear between the points (x, y) (K,) and the corners (0, 0) and (1, 1).

    Of several points at one x the first is met from the left and the last goes on to the right, in order of threshold and
    behind them the corner: what reaches performance without information, or the image's information, does not count.
    """
    x, y = np.append(x, [0.0, 1.0]), np.append(y, [0.0, 1.0])
    order = np.argsort(x, kind="stable")
    return np.interp(np.arange(POINTS + 1) / POINTS, x[order], y[order])


def reveal(image: Pixels, known: Mask) -> Pixels:
    """The image with its unknown pixels interpolated linearly over Delaunay triangles of the known ones, in 8 bits.

    The corners always count as known, so that no pixel lies outside the triangles.
    """
    from scipy.interpolate import LinearNDInterpolator  # not while others load: it takes a second

    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    found = image.copy()
    if not known.all():
        plane = LinearNDInterpolator(np.argwhere(known), image[known].astype(np.float64))
        found[~known] = np.round(plane(np.argwhere(~known)).astype(np.float32))  # so that halves are exact
    return found


def information(image: Pixels) -> int:
    """Bytes of the image as lossless WebP, at Pillow's highest effort. Depends on the version of libwebp."""
    content = BytesIO()
    Image.fromarray(image).save(content, format="webp", lossless=True, quality=100)
    return content.tell()


def reveal_all(images: NDArray[np.uint8], known: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(B, K, H, W, 3) the images (B, H, W, 3) under K masks each (B, K, H, W), and (B, K) their information.

    One thread a processor: triangulation and encoder release the interpreter's lock.
    """

    def one(at: tuple[int, ...]) -> tuple[Pixels, int]:
        shown = reveal(images[at[0]], known[at])
        return shown, information(shown)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shown, sizes = zip(*pool.map(one, np.ndindex(known.shape[:2])), strict=True)
    return np.stack(shown).reshape(*known.shape, 3), np.array(sizes).reshape(known.shape[:2])
