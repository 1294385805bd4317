"""Sensitivity-n: the correlation of summed attributions of a subset with the score change when the subset is removed."""

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
from xplain.metrics._similarity import is_varying
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images

ROUNDING = 1e-12  # relative differences of float64 sums below this are rounding errors


@metric(
    "sensitivity-n",
    better="higher",
    bounds=(-1, 1),
    unit="correlation",
    axis="removed fraction",
    undefined="where at some fraction the map's sums or the scores do not vary between subsets",
    forwards=lambda *, fractions, masks, **_: len(read_percentages(fractions)) * masks,
    paper=Paper(
        "Towards better understanding of gradient-based attribution methods for deep neural networks",
        "Marco Ancona, Enea Ceolini, Cengiz Öztireli, Markus Gross",
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
    """Correlate the summed attributions of random subsets with the change of the score when the subset is removed.

    corr over subsets S of Σ_{i in S} φ_i and f(x) - f(x without S). The value is the mean over the fractions; the curve holds the
    correlation at each fraction. 1 for the exact attributions of a linear model, -1 for their negatives.
    f(x) is the same for all subsets and is not computed. Undefined (NaN) where, at one of the fractions, the sums or the
    scores vary by no more than rounding, as for a constant map.

    fractions: percentages of units to remove, ``10+30+50``, or ``10..90`` (in steps of ten). Every fraction has its own random
    draws, so its correlation does not depend on the other fractions.
    masks: subsets per fraction, each of exactly round(q·N / 100) of N units.
    unit: ``patch`` removes cells of a ``grid`` x ``grid`` raster over the image (Jeon et al. 2022, equation 13 and table 2);
    ``pixel`` and ``scalar`` remove single pixels, or single values of a channel (Ancona et al. 2018).
    grid: cells per side of the raster of ``patch``.
    baseline: what replaces removed units; ``mean`` is the zero of the normalized input.
    score: the score f, which is compared with the sums.
    Raises UsageError if the grid is finer than the image.
    """
    percentages = read_percentages(fractions)
    unit_of_value = _assign_units(inputs.images, unit, grid)
    attributions = _sum_units(inputs.attributions, inputs.images.shape[1], unit, grid)
    units = attributions.shape[1]
    sizes = [round(percentage * units / 100) for percentage in percentages]
    # one random stream per fraction and mask: the sample index of Streams may be any integer
    samples = [round(percentage * 1000) * 2**20 + mask for percentage in percentages for mask in range(masks)]
    sums, scores = _remove_subsets(
        inputs,
        rng,
        samples=torch.tensor(samples, device=inputs.images.device),
        counts=torch.tensor(sizes, device=inputs.images.device).repeat_interleave(masks),
        attributions=attributions,
        unit_of_value=unit_of_value,
        fill=make_fill_images(baseline, inputs),
        score=score,
    )
    sums = sums.unflatten(1, (len(percentages), masks))
    scores = scores.unflatten(1, (len(percentages), masks))
    has_equal_sums = ~is_varying(sums, ROUNDING)
    has_equal_scores = ~is_varying(scores, 8 * torch.finfo(scores.dtype).eps)
    curve = -_correlate(sums, scores.double()).masked_fill(has_equal_sums | has_equal_scores, torch.nan)
    reasons = {
        "the map's sums do not vary between subsets": has_equal_sums.any(dim=1),
        "the score does not vary between subsets": has_equal_scores.any(dim=1),
    }
    return Score(curve.mean(dim=1), curve, undefined=reasons)


def _remove_subsets(
    inputs: MetricInput,
    rng: Streams,
    *,
    samples: Tensor,
    counts: Tensor,
    attributions: Tensor,
    unit_of_value: Tensor,
    fill: Tensor,
    score: ScoreKind,
) -> tuple[Tensor, Tensor]:
    """Return the sums of attributions of random subsets (B, K) in float64, and the scores (B, K) without the subsets.

    samples: (K,) sample indices of the draws. counts: (K,) units in each subset. attributions: (B, units).
    unit_of_value: (1 or C, H, W) as of ``_assign_units``. fill: (B, C, H, W) what replaces removed values.
    """
    shape = (len(inputs.images), len(samples))
    sums = attributions.new_zeros(shape)
    scores = torch.zeros_like(sums, dtype=torch.promote_types(inputs.images.dtype, torch.float32))
    for block in inputs.oracle.blocks(inputs.images, len(samples)):
        streams = rng.take(block.images)
        chosen = draw_subsets(streams, samples[block.points], counts[block.points], attributions.shape[1])
        sums[block.images, block.points] = torch.einsum(
            "bku,bu->bk", chosen.to(attributions), attributions[block.images]
        )
        points = torch.where(chosen[:, :, unit_of_value], fill[block.images, None], inputs.images[block.images, None])
        scores[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y, score)
    return sums, scores


def draw_subsets(rng: Streams, samples: Tensor, counts: Tensor, units: int) -> Tensor:
    """Return masks (B, K, units) of uniformly random subsets, one per image and sample index.

    samples: (K,) sample indices. counts: (K,) exact sizes of the subsets.
    """
    return ranks(rng.uniform(samples, (units,), torch.float32), lowest=True) < counts[:, None]


def _assign_units(images: Tensor, unit: str, grid: int) -> Tensor:
    """Return the index of the unit (1 or C, H, W) to which each value of an image belongs."""
    channels, height, width = images.shape[1:]
    if unit != "patch":
        shape = (1 if unit == "pixel" else channels, height, width)
        return torch.arange(shape[0] * height * width, device=images.device).reshape(shape)
    if grid > min(height, width):
        raise UsageError(
            f"sensitivity-n: grid={grid} exceeds the image size of {height} x {width} pixels", "use a smaller grid"
        )
    rows = _assign_cells(height, grid, images)
    columns = _assign_cells(width, grid, images)
    return (rows[:, None] * grid + columns)[None]


def _assign_cells(side: int, grid: int, like: Tensor) -> Tensor:
    """Return the cell 0 .. ``grid`` - 1 (side,) to which each row or column of pixels belongs."""
    return torch.arange(side, device=like.device) * grid // side


def _sum_units(attributions: Tensor, channels: int, unit: str, grid: int) -> Tensor:
    """Return the sums of attributions (B, units) in float64 over each unit.

    With unit=scalar a map of one channel counts for every channel.
    """
    values = attributions.double()
    if unit == "scalar":
        return values.expand(-1, channels, -1, -1).flatten(1)
    values = values.sum(dim=1)
    if unit == "pixel":
        return values.flatten(1)
    height, width = values.shape[1:]
    rows = F.one_hot(_assign_cells(height, grid, values), grid).to(values)
    columns = F.one_hot(_assign_cells(width, grid, values), grid).to(values)
    return torch.einsum("bhw,hr,wc->brc", values, rows, columns).flatten(1)  # unlike scatter_add, deterministic


def _correlate(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation (...) of a and b (..., M)."""
    a = a - a.mean(dim=-1, keepdim=True)
    b = b - b.mean(dim=-1, keepdim=True)
    return (F.normalize(a, dim=-1, eps=0) * F.normalize(b, dim=-1, eps=0)).sum(dim=-1).clamp(-1, 1)
