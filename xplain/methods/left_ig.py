"""Left-IG: integrated gradients over the part of the line before the score saturates."""

from typing import Annotated

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._line_scores import score_line
from xplain.oracle import Oracle

NO_CUTOFF = "no score along the line exceeds the cutoff, so that the whole line is integrated"


@method(
    "left-ig",
    alias="lig",
    paper=Paper(
        "Investigating saturation effects in integrated gradients",
        "Vivek Miglani, Narine Kokhlikyan, Bilal Alsallakh, Miguel Martin, Orion Reblitz-Richardson",
        2020,
        "ICML workshop",
        "2010.12697",
    ),
    axioms=frozenset({"dummy", "symmetry", "implementation-invariance"}),
    undecided={"sensitivity-a": "it holds where the score rises from the baseline, and fails where it only falls"},
    cost=lambda steps, **_: (2 * steps + 1, steps),
    at_most=True,
    parallel=lambda steps, **_: steps,
    deviations="The definition is that of the program of the IDG paper (Walker et al. 2024), which compares with Left-IG; the authors' own "
    "program was not available. The gradients are summed with the weight 1/n, so that the values are in units of the score. That program "
    "averages them, which scales the map, and uses one node if no score exceeds the cutoff.",
    rounding="The end of the part is a node: scores that are nearly equal to the cutoff are on either side of it in correct float32 "
    "implementations.",
)
def left_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    baseline: Baseline = "black",
    steps: Steps = 50,
    cutoff: Annotated[float, Bounds(above=0, high=1)] = 0.9,
) -> Attribution:
    """Average the gradient along the line from a baseline to the point where the score saturates, and multiply it by the difference.

    φ = (x - x') ⊙ (1/n) Σ_{k<k*} ∇f(x_k), x_k = x' + (k/n) (x - x'). k* >= 1 is the first node whose score exceeds c max_{k=0..n} f(x_k).
    It sums to f(x_{k*}) - f(x') up to the error of the steps, not to f(x) - f(x'). The details ``part`` and ``score_change`` hold k*/n and
    f(x_{k*}) - f(x'). If no score exceeds the cutoff, because none is positive, the whole line is integrated and the map is flagged.
    The scores of all nodes are computed first, then the gradients of the nodes before k*.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    baseline: as in ``integrated-gradients``.
    steps: number of intervals n.
    cutoff: share c of the highest score at which the score counts as saturated.
    """
    start = make_baseline(baseline, x, oracle.mean_color(x), rng)
    scores = score_line(oracle, x, y, start, steps)
    ends = find_ends(scores, cutoff)
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, int(ends.max())):
        node = block.point_indices(x.device).repeat(block.shape[0])
        image = block.image_indices(x.device)
        is_left = node < ends[image]
        node, image = node[is_left], image[is_left]
        if len(image):
            points = torch.lerp(start[image], x[image], (node.to(x.dtype) / steps)[:, None, None, None])
            total.index_add_(0, image, oracle.gradients(points, y[image], image).values)
    change = scores.gather(1, ends[:, None])[:, 0] - scores[:, 0]
    return Attribution(
        (x - start) * total / steps,
        details={"part": ends.to(x.dtype) / steps, "score_change": change},
        flags={NO_CUTOFF: scores.amax(dim=1) <= 0},
    )


def find_ends(scores: Tensor, cutoff: float) -> Tensor:
    """Return the index (B,) of the first node whose score exceeds ``cutoff`` times the largest of the scores (B, n + 1), at least 1.

    The last index if no score does.
    """
    exceeds = scores > cutoff * scores.amax(dim=1, keepdim=True)
    first = exceeds.to(torch.int8).argmax(dim=1)
    return torch.where(exceeds.any(dim=1), first.clamp(min=1), scores.shape[1] - 1)
