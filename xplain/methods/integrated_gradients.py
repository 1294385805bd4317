"""Integrated gradients: the gradient averaged along the line from a baseline to the image."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._quadrature import Rule, quadrature
from xplain.oracle import Oracle


@method(
    "integrated-gradients",
    alias="ig",
    paper=Paper(
        "Axiomatic attribution for deep networks",
        "Mukund Sundararajan, Ankur Taly, Qiqi Yan",
        2017,
        "ICML",
        "1703.01365",
    ),
    axioms=frozenset({"completeness", "linearity", "dummy", "symmetry", "implementation-invariance"}),
    cost=lambda steps, **_: (steps, steps),
    parallel=lambda steps, **_: steps,
    deviations="The paper's sum is rule=right; Gauss-Legendre nodes are the default because they need far fewer steps.",
)
def integrated_gradients(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    baseline: Baseline = "black",
    steps: Steps = 50,
    rule: Rule = "gauss-legendre",
) -> Attribution:
    """Average the gradient along the line from a baseline to the image, and multiply it by their difference.

    φ = (x - x') ⊙ Σ_k w_k ∇f(x' + α_k (x - x')), Σ_k w_k = 1.
    Sums to f(x) - f(x') up to the quadrature error; ``expected`` holds that difference.
    Raises UsageError for rule=trapezoid with steps=1.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    steps: number of nodes α_k.
    rule: quadrature rule of the nodes and weights.
    """
    start = make_baseline(baseline, x, oracle.mean_color(x), rng)
    nodes, weights = quadrature(rule, steps, x)
    total = line_integral(oracle, x, y, start, nodes, weights)
    return Attribution((x - start) * total, expected=oracle.score_change(start, x, y))


def line_integral(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    nodes: Tensor,
    weights: Tensor,
    image: Tensor | None = None,
) -> Tensor:
    """Return Σ_k w_k ∇f(start + α_k (x - start)), shaped like x.

    x, start: end and start of the lines (B, C, H, W).
    y: target classes (B,).
    nodes, weights: α_k and w_k (K,).
    image: index (B,) of the image that each line belongs to; None if the lines are the images.
    """
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, len(nodes)):
        alpha = nodes[block.points][None, :, None, None, None]
        points = torch.lerp(start[block.images, None], x[block.images, None], alpha)
        gradients = oracle.block_gradients(block, points, y, image)
        total[block.images] += torch.einsum("k,bkchw->bchw", weights[block.points], gradients)
    return total
