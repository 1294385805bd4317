"""Occlusion: the drop of the score when a window of the image is hidden."""

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.oracle import Oracle


def _count_positions(side: int, window: int, stride: int) -> int:
    """Return the number of window positions on a line: every ``stride`` pixels, and one flush with the end."""
    return -(-max(side - window, 0) // stride) + 1


@method(
    "occlusion",
    access="outputs",
    paper=Paper(
        "Visualizing and understanding convolutional networks",
        "Matthew D. Zeiler, Rob Fergus",
        2014,
        "ECCV",
        "1311.2901",
    ),
    axioms=frozenset({"sensitivity-a", "linearity", "implementation-invariance"}),
    cost=lambda window, stride, **_: (_count_positions(224, window, stride) ** 2 + 1, 0),
    at_most=True,
    parallel=lambda window, stride, **_: _count_positions(224, window, stride) ** 2,
    deviations="PAIR's code corresponds to stride=1, reduce=sum. With a larger stride, a last window flush with the border covers the "
    "remaining pixels. The cost is given for 224 x 224 pixels.",
)
def occlusion(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    window: Steps = 15,
    stride: Steps = 8,
    baseline: Baseline = "black",
    reduce: Literal["sum", "mean"] = "sum",
) -> Attribution:
    """Sum, for each pixel, the drop in the score over all windows that occlude the pixel.

    φ(λ) = Σ over windows W that contain λ of f(x) - f(x with W from the baseline).
    Windows are placed every ``stride`` pixels, and flush with the right and the lower border. A window larger than the image
    covers it; with a stride larger than the window, pixels that no window contains get 0. Returns (B, 1, H, W).

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    window: side of the square window, in pixels.
    stride: distance between windows, in pixels.
    baseline: what a hidden window shows.
    reduce: ``sum``, or ``mean`` over the windows that contain the pixel.
    """
    fill = make_baseline(baseline, x, oracle.mean_color(x), rng)
    height, width = x.shape[-2:]
    rows, columns = _window_masks(height, window, stride, x), _window_masks(width, window, stride, x)
    original = oracle.scores(x, y)
    count = len(rows) * len(columns)
    drops = x.new_zeros(len(x), count)
    for block in oracle.blocks(x, count):
        position = block.point_indices(x.device)
        mask = rows[position // len(columns), :, None] * columns[position % len(columns), None, :]
        occluded = torch.lerp(x[block.images, None], fill[block.images, None], mask[None, :, None])
        scores = oracle.block_scores(block, occluded, y)
        drops[block.images, block.points] = (original[block.images, None] - scores).to(x.dtype)
    values = rows.T @ drops.unflatten(1, (len(rows), len(columns))) @ columns
    if reduce == "mean":
        values = values / (rows.sum(dim=0)[:, None] * columns.sum(dim=0)).clamp(min=1)
    return Attribution(values[:, None])


def _window_masks(side: int, window: int, stride: int, like: Tensor) -> Tensor:
    """Return masks (positions, side) of a line: 1 inside the window, else 0."""
    start = torch.arange(_count_positions(side, window, stride), device=like.device)[:, None] * stride
    start = start.clamp(max=max(side - window, 0))
    pixel = torch.arange(side, device=like.device)
    return ((pixel >= start) & (pixel < start + window)).to(like.dtype)
