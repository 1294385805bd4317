"""Sensitivity-n: whether attributions of a subset add up to what removing the subset does to the score."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Percentages, Steps, read_percentages
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score, ScoreKind
from xplain.metrics._ranking import ranks
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images

ROUNDING = 1e-12  # of sums in float64: differences below this share of the largest are none


@metric(
    "sensitivity-n",
    better="higher",
    bounds=(-1, 1),
    unit="correlation",
    axis="fractions, from the first to the last",
    undefined="where at some fraction the map's sums or the scores do not vary between subsets",
    forwards=lambda *, fractions, masks, **_: len(read_percentages(fractions)) * masks,
    paper=Paper(
        "Towards better understanding of gradient-based attribution methods for deep neural networks",
        "Ancona, Ceolini, Öztireli, Gross",
        2018,
        "ICLR",
        "1711.06104",
    ),
)
def sensitivity_n(
    inputs: MetricInput,
    *,
    rng: Streams,
    fractions: Percentages = "10..90",
    masks: Annotated[int, Bounds(low=3)] = 100,
    grid: Steps = 14,
    unit: Literal["patch", "pixel", "scalar"] = "patch",
    baseline: Literal["mean", "black", "blur"] = "mean",
    score: Literal["logit", "prob", "log-prob"] = "logit",
) -> Score:
    """How well the attributions of random subsets correlate with the change of the score when the subset is removed.

    corr over subsets S of Σ_{i in S} φ_i and f(x) - f(x without S), the mean over the fractions; the curve holds the
    correlation at each fraction. 1 for the exact attributions of a linear model, -1 for their negatives.
    fractions: percentages of units removed, ``10+30+50`` or ``10..90`` (in tens), each with its own draws, so that a fraction
    by itself has the numbers that it has among others. masks: subsets a fraction, each of exactly round(q·N / 100) of N units.
    unit: ``patch`` removes cells of a ``grid`` x ``grid`` raster over the image (Jeon et al. 2022, equation 13 and table 2);
    ``pixel`` and ``scalar`` remove single pixels, or single values of a channel (Ancona et al. 2018).
    baseline: what stands for what is removed; ``mean`` is the zero of the normalised input. f(x) is the same for all subsets and
    is not computed. Undefined (NaN) where the sums or the scores vary by no more than rounding at one of the fractions,
    such as for a constant map. Raises UsageError for a grid finer than the image.
    """
    shares = read_percentages(fractions)
    cells = _cells(inputs.images, unit, grid)
    parts = _parts(inputs.attributions, inputs.images.shape[1], unit, grid)
    sizes = [round(share * parts.shape[1] / 100) for share in shares]
    # a stream for each fraction and mask: Streams takes any whole number as a sample's index
    samples = [round(share * 1000) * 2**20 + m for share in shares for m in range(masks)]
    drawn = torch.tensor(samples, device=inputs.images.device)
    counts = torch.tensor(sizes, device=inputs.images.device).repeat_interleave(masks)
    sums, scores = _removals(inputs, rng, drawn, counts, cells, parts, make_fill_images(baseline, inputs), score)
    sums, scores = (each.unflatten(1, (len(shares), masks)) for each in (sums, scores))
    still = ~_varies(sums, ROUNDING)
    flat = ~_varies(scores, 8 * torch.finfo(scores.dtype).eps)
    curve = -_correlation(sums, scores.double()).masked_fill(still | flat, torch.nan)
    reasons = {
        "the map's sums do not vary between subsets": still.any(dim=1),
        "the score does not vary between subsets": flat.any(dim=1),
    }
    return Score(curve.mean(dim=1), curve, undefined=reasons)


def _removals(
    inputs: MetricInput,
    rng: Streams,
    samples: Tensor,
    counts: Tensor,
    cells: Tensor,
    parts: Tensor,
    fill: Tensor,
    score: ScoreKind,
) -> tuple[Tensor, Tensor]:
    """(B, K) sums of attributions (float64) and scores, for subsets of ``counts`` (K,) units drawn by ``samples`` (K,)."""
    shape = (len(inputs.images), len(samples))
    sums = parts.new_zeros(shape)
    scores = torch.zeros_like(sums, dtype=torch.promote_types(inputs.images.dtype, torch.float32))
    for block in inputs.oracle.blocks(inputs.images, len(samples)):
        chosen = subsets(rng.take(block.images), samples[block.points], counts[block.points], parts.shape[1])
        sums[block.images, block.points] = torch.einsum("bku,bu->bk", chosen.to(parts), parts[block.images])
        points = torch.where(chosen[:, :, cells], fill[block.images, None], inputs.images[block.images, None])
        scores[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y, score)
    return sums, scores


def subsets(rng: Streams, samples: Tensor, counts: Tensor, units: int) -> Tensor:
    """(B, K, units) bool: for each image and sample index (K,) a uniformly random subset of exactly ``counts`` (K,) units."""
    return ranks(rng.uniform(samples, (units,), torch.float32), lowest=True) < counts[:, None]


def _cells(images: Tensor, unit: str, grid: int) -> Tensor:
    """(1 or C, H, W) the unit to which each value of an image belongs."""
    channels, height, width = images.shape[1:]
    if unit != "patch":
        shape = (1 if unit == "pixel" else channels, height, width)
        return torch.arange(shape[0] * height * width, device=images.device).reshape(shape)
    if grid > min(height, width):
        raise UsageError(f"sensitivity-n: grid={grid} is finer than {height} x {width} pixels", "give a coarser grid")
    return (_places(height, grid, images)[:, None] * grid + _places(width, grid, images))[None]


def _places(side: int, grid: int, like: Tensor) -> Tensor:
    """(side,) the cell of a raster to which each row or column of pixels belongs."""
    return torch.arange(side, device=like.device) * grid // side


def _parts(attributions: Tensor, channels: int, unit: str, grid: int) -> Tensor:
    """(B, units) sums of attributions over each unit, in float64; a map without colour counts for every channel."""
    values = attributions.double()
    if unit == "scalar":
        return values.expand(-1, channels, -1, -1).flatten(1)
    values = values.sum(dim=1)
    if unit == "pixel":
        return values.flatten(1)
    rows, columns = (F.one_hot(_places(side, grid, values), grid).to(values) for side in values.shape[1:])
    return torch.einsum("bhw,hr,wc->brc", values, rows, columns).flatten(1)  # sums by products repeat to the byte


def _varies(values: Tensor, share: float) -> Tensor:
    """(...) whether values (..., M) differ by more than a share of the largest."""
    return values.amax(dim=-1) - values.amin(dim=-1) > share * values.abs().amax(dim=-1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(...) Pearson's correlation of (..., M)."""
    a, b = (each - each.mean(dim=-1, keepdim=True) for each in (a, b))
    return (F.normalize(a, dim=-1, eps=0) * F.normalize(b, dim=-1, eps=0)).sum(dim=-1).clamp(-1, 1)
