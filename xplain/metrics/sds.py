"""Single deletion score (SDS): the rank correlation of attributions with the effect of deleting single cells of a grid."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._parts import assign_even_parts, pixel_values, scores_without_parts
from xplain.metrics._similarity import is_varying, spearman
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images

HESSE = Paper(
    "Benchmarking the attribution quality of vision models",
    "Robin Hesse, Simone Schaub-Meyer, Stefan Roth",
    2024,
    "NeurIPS",
    "2407.11910",
)
ScoreName = Literal["logit", "prob", "log-prob"]
ROUNDING = 1e-12  # relative differences of float64 sums below this are rounding errors


@metric(
    "sds",
    better="higher",
    bounds=(-1, 1),
    unit="rank correlation",
    synonyms=("single-deletion",),
    forwards=lambda grid, **_: grid**2,
    undefined="where the map's sums or the scores do not vary between cells",
    paper=HESSE,
    deviations="The cells cover the whole image; the authors' code never deletes the pixels beyond 4·⌊H/4⌋. The network is not "
    "trained on images with deleted cells (see idsds), so that values compare methods on one network, not networks.",
)
def sds(
    inputs: MetricInput,
    *,
    grid: Steps = 4,
    baseline: Literal["mean", "black", "blur"] = "mean",
    score: ScoreName = "logit",
) -> Score:
    """Correlate the summed attributions of the cells of a grid with the fall of the score when a single cell is deleted.

    Spearman's correlation over the grid² cells c of Σ_{i in c} φ_i and f(x) - f(x without c), where ties share their mean rank. 1 for
    the exact attributions of a linear model, -1 for their negatives. A random map scores 0 on average, with a standard
    deviation of 0.26 for 16 cells. f(x) is the same for all cells and is not computed. The paper explains the label of the
    data set (``--target label``). Undefined (NaN) where the sums or the scores vary by no more than rounding.

    grid: cells per side; cell k begins at pixel round(k·H / grid).
    baseline: what replaces a cell; ``mean`` is the zero of the normalized input.
    score: the score f, whose fall is compared with the sums.
    Raises UsageError if the grid is finer than the image.
    """
    check_grid("sds", grid, inputs.images)
    return correlate_cells(inputs, grid, make_fill_images(baseline, inputs), score)


def check_grid(name: str, grid: int, images: Tensor) -> None:
    """Raise UsageError if the grid of the metric ``name`` is finer than images (B, C, H, W)."""
    height, width = images.shape[2:]
    if grid > min(height, width):
        text = f"{name}: grid={grid} exceeds the image size of {height} x {width} pixels"
        raise UsageError(text, "use a smaller grid")


def correlate_cells(inputs: MetricInput, grid: int, fill: Tensor, score: ScoreName) -> Score:
    """Return the rank correlations of the sums of the cells with the falls of the score without them. fill: (B, C, H, W) replaces cells."""
    height, width = inputs.images.shape[2:]
    rows, columns = (assign_even_parts(side, grid, inputs.images.device) for side in (height, width))
    cell_of_pixel = (rows[:, None] * grid + columns)[None, None]
    sums = _sum_cells(pixel_values(inputs.attributions), rows, columns, grid)
    scores = scores_without_parts(inputs, cell_of_pixel, grid**2, fill, score)
    epsilon = torch.finfo(torch.promote_types(inputs.images.dtype, torch.float32)).eps
    undefined = {
        "the map's sums do not vary between cells": ~is_varying(sums, ROUNDING),
        "the score does not vary between cells": ~is_varying(scores, 8 * epsilon),
    }
    values = spearman(sums, -scores)
    return Score(values.masked_fill(torch.stack([*undefined.values()]).any(dim=0), torch.nan), undefined=undefined)


def _sum_cells(values: Tensor, rows: Tensor, columns: Tensor, grid: int) -> Tensor:
    """Return the sums (B, grid²) of values (B, H, W) over the cells. rows: (H,) and columns: (W,) indices of cells."""
    row_matrix, column_matrix = F.one_hot(rows, grid).to(values), F.one_hot(columns, grid).to(values)
    return torch.einsum("bhw,hr,wc->brc", values, row_matrix, column_matrix).flatten(
        1
    )  # unlike scatter_add, deterministic
