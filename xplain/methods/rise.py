"""RISE: the mean of random masks, weighted by the score of the masked images."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import AutoSteps, Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._rounds import check_auto, max_count
from xplain.methods._sampling import Sampling
from xplain.methods._split_sums import SplitSums
from xplain.oracle import Oracle

TOLERANCE, MAX_MASKS = 0.3, 8000  # defaults of masks=auto
FIRST_MASKS = 128  # of masks=auto


@method(
    "rise",
    access="outputs",
    paper=Paper(
        "RISE: randomized input sampling for explanation of black-box models",
        "Vitali Petsiuk, Abir Das, Kate Saenko",
        2018,
        "BMVC",
        "1806.07421",
    ),
    score="prob",
    axioms=frozenset({"linearity", "implementation-invariance"}),
    undecided={"sensitivity-a": "the mean of random masks is not zero for values without influence"},
    cost=lambda masks, max_masks, **_: (max_count(masks, max_masks), 0),
    parallel=lambda masks, **_: max_count(masks, FIRST_MASKS),
    added=frozenset({"tolerance", "max_masks"}),
    parameter_aliases={"samples": "masks", "max_samples": "max_masks"},
    deviations="Masks are drawn per image; the authors' code draws one set for all images. Hidden pixels become the mean color, "
    "the zero of the normalized input that the code multiplies (baseline=black is the paper's product with the pixels). "
    "Grids are upsampled with half-pixel centers, edge values repeated.",
)
def rise(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    masks: AutoSteps = 4000,
    grid: Steps = 7,
    keep: Annotated[float, Bounds(above=0, high=1)] = 0.5,
    baseline: Baseline = "mean",
    tolerance: Positive = TOLERANCE,
    max_masks: Steps = MAX_MASKS,
) -> Attribution:
    """Average, for each pixel, the score over the random masks that keep the pixel visible.

    φ = 1 / (N p) Σ_i f(x' + M_i ⊙ (x - x')) M_i (Eq. 6), where M_i is an s x s grid of zeros and ones (ones with
    probability p), upsampled bilinearly to (s + 1) cells of ⌈H/s⌉ x ⌈W/s⌉ pixels, and cropped to the image at a random offset
    within a cell. Not centered: a constant f gives about f everywhere. Returns (B, 1, H, W).
    masks=auto: 128 masks, then more in rounds, until the standard error of the map without its mean is at most ``tolerance`` times its
    norm, see smoothgrad.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    masks: number of masks N, or auto. ``samples`` is another name of this parameter.
    grid: side s of the grid of a mask.
    keep: probability p that a cell of the grid is visible.
    baseline: what hidden pixels show.
    tolerance: of masks=auto.
    max_masks: maximum number of masks of masks=auto. Images that need more are flagged.
    """
    check_auto("rise", "masks", masks, tolerance, TOLERANCE)
    fill = make_baseline(baseline, x, oracle.mean_color(x), rng.child("baseline"))
    height, width = x.shape[-2:]
    rows, columns = _upsampling_matrices(height, grid, x), _upsampling_matrices(width, grid, x)
    total, halves = torch.zeros_like(x[:, :1]), SplitSums(x[:, :1])
    sampling = Sampling(oracle, x, masks, tolerance, max_masks, first=FIRST_MASKS, centered=True)
    for block in sampling.blocks():
        images, numbers = block.images, block.point_indices(x.device)
        cells = (rng.take(images).uniform(numbers, (grid, grid), x.dtype) < keep).to(x.dtype)
        down = rows[rng.child("down").take(images).integers(numbers, (), len(rows))]
        across = columns[rng.child("across").take(images).integers(numbers, (), len(columns))]
        mask = (down @ cells @ across.mT)[:, :, None]
        scores = oracle.block_scores(block, torch.lerp(fill[images, None], x[images, None], mask), y)
        weighted = scores.to(x.dtype)[:, :, None, None, None] * mask
        total[images] += weighted.sum(dim=1)
        sampling.add(block, weighted)
        halves.add(block, weighted)
    return sampling.attribution(total / (sampling.count * keep), parts=halves.split(total))


def _upsampling_matrices(side: int, grid: int, like: Tensor) -> Tensor:
    """Return matrices (offsets, side, grid) that upsample the grid values to a line, one per offset within a cell."""
    cell = -(-side // grid)
    identity = torch.eye(grid, dtype=like.dtype, device=like.device)[None]
    upsampled = F.interpolate(identity, size=(grid + 1) * cell, mode="linear", align_corners=False)[0].T
    return torch.stack([upsampled[offset : offset + side] for offset in range(cell)])
