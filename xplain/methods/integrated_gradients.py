"""Integrated gradients: the gradient averaged along the line from a baseline to the image."""

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import AutoSteps, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._idgi import Direction, ScoreChanges
from xplain.methods._nested_steps import FIRST_STEPS, MAX_STEPS, TOLERANCE, integrate_to_tolerance
from xplain.methods._quadrature import Rule, quadrature
from xplain.methods._rounds import Count, check_auto, max_count
from xplain.oracle import Oracle


def _cost(steps: Count, direction: Direction, max_steps: int, **_: object) -> tuple[int, int]:
    """Return the maximum (forward, backward) rows per image."""
    count = max_count(steps, max_steps)
    return count + (direction == "idgi"), count


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
    axioms=frozenset({"sensitivity-a", "completeness", "linearity", "dummy", "symmetry", "implementation-invariance"}),
    cost=_cost,
    parallel=lambda steps, **_: max_count(steps, 2 * FIRST_STEPS + 1),
    deviations="The paper's sum is rule=right; Gauss-Legendre nodes are the default because they need far fewer steps. "
    "direction=idgi is defined by Yang, Wang and Bilgic, CVPR 2023 (2303.14242).",
    added=frozenset({"direction", "tolerance", "max_steps"}),
)
def integrated_gradients(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    baseline: Baseline = "black",
    steps: AutoSteps = 50,
    rule: Rule = "gauss-legendre",
    direction: Direction = "none",
    tolerance: Positive = TOLERANCE,
    max_steps: Steps = MAX_STEPS,
) -> Attribution:
    """Average the gradient along the line from a baseline to the image, and multiply it by their difference.

    φ = (x - x') ⊙ Σ_k w_k ∇f(x' + α_k (x - x')), Σ_k w_k = 1.
    Sums to f(x) - f(x') up to the quadrature error; ``expected`` holds that difference.
    direction=idgi: φ = Σ_k (f(x_{k+1}) - f(x_k)) ∇f(x_k)² / ‖∇f(x_k)‖², x_k = x' + (k/n) (x - x'), k = 0 .. n.
    It sums to f(x) - f(x') for every path and number of steps, except for steps from points without a gradient, so that a small gap
    says nothing about its quality. It is neither linear nor invariant to the scale of the pixels. Use at least 50 steps.
    steps=auto: 7 nodes of rule=chebyshev, then 15, 31, ... (the previous ones are reused), until the completeness gap of the image is at
    most ``tolerance`` times |f(x) - f(x')|, and was at most three times that in the previous round, since a single gap can be small by
    chance. ``details`` hold the steps and the gap as a share of |f(x) - f(x')|.
    Raises UsageError for rule=trapezoid with steps=1, and for direction=idgi or steps=auto with a rule that has other points.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    baseline: x': a color (``mean`` is the one that the normalization maps to zero), ``blur`` (the image, blurred by a Gaussian of 5
    pixels), ``uniform`` (random pixels), an image file, or a directory, over whose images the attributions are averaged.
    steps: number of nodes α_k, or auto.
    rule: quadrature rule of the nodes and weights. direction=idgi has the points of rule=left and ignores the default, and steps=auto
    those of rule=chebyshev.
    direction: ``none``, or ``idgi`` to share each change of the score along the line by the squares of the gradient.
    tolerance: of steps=auto, a share of the change of the score.
    max_steps: maximum number of steps of steps=auto, which takes the largest 2^k - 1 up to it. Images that need more are flagged.
    """
    check_auto("integrated-gradients", "steps", steps, tolerance, TOLERANCE)
    start = make_baseline(baseline, x, oracle.mean_color(x), rng)
    if steps == "auto":
        _check_nested(rule, direction)
        return integrate_to_tolerance(oracle, x, y, start, tolerance=tolerance, max_steps=max_steps)
    if direction == "idgi":
        return _share_score_changes(oracle, x, y, start, steps, rule)
    nodes, weights = quadrature(rule, steps, x)
    total = line_integral(oracle, x, y, start, nodes, weights)
    return Attribution((x - start) * total, expected=oracle.score_change(start, x, y))


def _check_nested(rule: Rule, direction: Direction) -> None:
    """Raise UsageError for parameters with which steps=auto is not defined."""
    if direction == "idgi":
        raise UsageError(
            "steps=auto is not defined for direction=idgi, whose gap says nothing", "set a number of steps"
        )
    if rule not in ("gauss-legendre", "chebyshev"):  # the first is the default
        raise UsageError(f"steps=auto is not defined for rule={rule}", "use rule=chebyshev or remove rule")


def _share_score_changes(oracle: Oracle, x: Tensor, y: Tensor, start: Tensor, steps: int, rule: Rule) -> Attribution:
    """Return the attribution of direction=idgi on the lines from ``start`` to x, both (B, C, H, W)."""
    if rule not in ("gauss-legendre", "left"):  # the first is the default
        raise UsageError(f"direction=idgi is not defined for rule={rule}", "use rule=left or remove rule")
    nodes, _ = quadrature("left", steps, x)
    changes = ScoreChanges(x)
    for block in oracle.blocks(x, steps):
        alpha = nodes[block.points][None, :, None, None, None]
        points = torch.lerp(start[block.images, None], x[block.images, None], alpha)
        gradients, scores = oracle.block_gradients_and_scores(block, points, y)
        changes.add(block.images, scores, gradients)
    values, expected = changes.finish(oracle.scores(x, y))
    return Attribution(values, expected=expected)


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
