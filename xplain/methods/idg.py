"""IDG: gradients along the line from a baseline to the image, weighted by the slope of the score."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._line_scores import score_line
from xplain.oracle import Oracle


def _cost(steps: int, intervals: int, adaptive: bool, **_: object) -> tuple[int, int]:
    """Return the (forward, backward) rows per image."""
    return steps + (intervals + 1 if adaptive else 0), steps


@method(
    "idg",
    paper=Paper(
        "Integrated decision gradients: Compute your attributions where the model makes its decision",
        "Chase Walker, Sumit Jha, Kenny Chen, Rickard Ewetz",
        2024,
        "AAAI",
        "2305.20052",
    ),
    axioms=frozenset({"dummy", "symmetry", "implementation-invariance"}),
    undecided={"sensitivity-a": "values are products of slopes, not in units of the score"},
    cost=_cost,
    parallel=lambda steps, **_: steps,
    deviations="The slope of the score is computed from the gradient; the authors' code uses differences of the score between nodes. An "
    "interval without nodes is skipped; in the authors' code the nodes after it move towards the baseline, so that the interval "
    "where the score changes can be missed. The code also divides by the number of nodes once more.",
    rounding="The number of nodes per interval is an integer: nearly equal changes of the score are rounded differently by correct "
    "float32 implementations.",
)
def idg(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    baseline: Baseline = "black",
    steps: Steps = 50,
    intervals: Steps = 50,
    adaptive: bool = True,
) -> Attribution:
    """Average the gradient along the line from a baseline to the image, weighted by the slope of the score along the line.

    φ = (x - x') ⊙ Σ_k w_k s_k ∇f(x_k), x_k = x' + α_k (x - x'), s_k = ⟨∇f(x_k), x - x'⟩.
    The line has N equal intervals. M nodes are divided among them in proportion to |f(end) - f(start)| of each (largest remainders, equal
    shares if f is constant); an interval with m nodes has them at its m midpoints, with weights 1/(N m), and is skipped if m = 0.
    The unit is the square of the score's: the sum is Σ w_k s_k² >= 0 and not the difference of the score.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    baseline: as in ``integrated-gradients``.
    steps: number of nodes M.
    intervals: number of intervals N.
    adaptive: false places the nodes at the midpoints of M equal intervals.
    """
    start = make_baseline(baseline, x, oracle.mean_color(x), rng)
    if adaptive:
        counts = divide_nodes(score_line(oracle, x, y, start, intervals).diff(dim=1).abs(), steps)
    else:
        counts = torch.ones((len(x), steps), dtype=torch.int64, device=x.device)
    nodes, weights = place_nodes(counts)
    nodes, weights = nodes.to(x.dtype), weights.to(x.dtype)
    line = x - start
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, steps):
        alpha = nodes[block.images, block.points][..., None, None, None]
        points = torch.lerp(start[block.images, None], x[block.images, None], alpha)
        gradients = oracle.block_gradients(block, points, y)
        slopes = (gradients * line[block.images, None]).sum(dim=(2, 3, 4))
        total[block.images] += torch.einsum("bk,bkchw->bchw", weights[block.images, block.points] * slopes, gradients)
    return Attribution(line * total)


def divide_nodes(sizes: Tensor, nodes: int) -> Tensor:
    """Divide ``nodes`` among intervals in proportion to ``sizes`` (B, N) >= 0 by largest remainders; equal shares if all are 0.

    Returns int64 (B, N). Of equal remainders, the first intervals get a node.
    """
    sizes = sizes.double()
    sizes = torch.where(sizes.sum(dim=1, keepdim=True) > 0, sizes, 1)
    quotas = nodes * (sizes / sizes.sum(dim=1, keepdim=True))
    counts = quotas.floor().long()
    ranks = (quotas - counts).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    missing = nodes - counts.sum(dim=1, keepdim=True)
    return counts + (ranks < missing)


def place_nodes(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nodes α and weights, float64 (B, M), of N equal intervals of [0, 1] with ``counts`` (B, N) nodes, M in each row."""
    intervals = counts.shape[1]
    after = counts.cumsum(dim=1)
    numbers = torch.arange(int(after[0, -1]), device=counts.device).expand(len(counts), -1).contiguous()
    interval = torch.searchsorted(after, numbers, right=True)
    count = counts.gather(1, interval)
    within = numbers - (after.gather(1, interval) - count)
    return (interval + (within + 0.5) / count.double()) / intervals, 1 / (intervals * count.double())
