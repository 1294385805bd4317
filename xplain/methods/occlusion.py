"""Occlusion: how much the score falls when a window is hidden."""

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


def _count(side: int, window: int, stride: int) -> int:
    """Positions of a window on a line: every ``stride`` pixels, and one flush with the end."""
    return -(-max(side - window, 0) // stride) + 1


@method(
    "occlusion",
    paper=Paper("Visualizing and understanding convolutional networks", "Zeiler, Fergus", 2014, "ECCV", "1311.2901"),
    axioms=frozenset({"linearity", "implementation-invariance"}),
    cost=lambda window, stride, **_: (_count(224, window, stride) ** 2 + 1, 0),
    at_most=True,
    parallel=lambda window, stride, **_: _count(224, window, stride) ** 2,
    deviations="PAIR's program is stride=1, reduce=sum. With a stride, a last window flush with the border keeps every pixel covered. "
    "The cost is given for 224 x 224 pixels.",
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
    """The fall of the score when a square window shows the baseline, credited to every pixel of the window.

    φ(λ) = Σ over windows W that hold λ of f(x) - f(x with W from the baseline); reduce=mean divides by their number.
    Windows stand every ``stride`` pixels, and flush with the right and the lower border. A window larger than the image
    covers it; with a stride above the window, pixels that no window holds get 0. window and stride in pixels.
    Returns (B, 1, H, W). x: (B, C, H, W) in [0, 1], y: (B,).
    """
    fill = make_baseline(baseline, x, oracle.mean, rng)
    rows, columns = (_cover(side, window, stride, x) for side in x.shape[-2:])
    clean = oracle.scores(x, y)
    count = len(rows) * len(columns)
    falls = x.new_zeros(len(x), count)
    for block in oracle.blocks(x, count):
        position = block.samples(x.device)
        hidden = rows[position // len(columns), :, None] * columns[position % len(columns), None, :]
        occluded = torch.lerp(x[block.images, None], fill[block.images, None], hidden[None, :, None])
        scores = oracle.block_scores(block, occluded, y)
        falls[block.images, block.points] = (clean[block.images, None] - scores).to(x.dtype)
    values = rows.T @ falls.unflatten(1, (len(rows), len(columns))) @ columns
    if reduce == "mean":
        values = values / (rows.sum(dim=0)[:, None] * columns.sum(dim=0)).clamp(min=1)
    return Attribution(values[:, None])


def _cover(side: int, window: int, stride: int, like: Tensor) -> Tensor:
    """(positions, side) 1 where the window of a position lies, else 0."""
    start = torch.arange(_count(side, window, stride), device=like.device)[:, None] * stride
    start = start.clamp(max=max(side - window, 0))
    pixel = torch.arange(side, device=like.device)
    return ((pixel >= start) & (pixel < start + window)).to(like.dtype)
