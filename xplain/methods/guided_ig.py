"""Guided IG: integrated gradients along a path that moves values with small gradients first."""

from itertools import count
from typing import Annotated

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Fraction, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._idgi import Direction, ScoreChanges
from xplain.oracle import Oracle

ROUNDS_PER_READ = 4


@method(
    "guided-ig",
    alias="gig",
    paper=Paper(
        "Guided integrated gradients: an adaptive path method for removing noise",
        "Andrei Kapishnikov, Subhashini Venugopalan, Besim Avci, Ben Wedin, Michael Terry, Tolga Bolukbasi",
        2021,
        "CVPR",
        "2106.09788",
    ),
    axioms=frozenset({"sensitivity-a", "completeness", "dummy", "implementation-invariance"}),
    cost=lambda steps, direction, **_: (steps + (direction == "idgi"), steps),
    deviations="The distance from the straight line is limited as in the authors' code, not by the paper's anchor points. Values "
    "move by their share α of the way, which is the arithmetic of the code without its division by x - x' and its comparison of floats. "
    "direction=idgi is defined by Yang, Wang and Bilgic, CVPR 2023 (2303.14242).",
    added=frozenset({"direction"}),
    plain=True,
    rounding="Values move in the order of their gradients: nearly equal gradients are ordered differently by correct float32 "
    "implementations.",
)
def guided_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    baseline: Baseline = "black",
    steps: Steps = 200,
    fraction: Annotated[float, Bounds(above=0, high=1)] = 0.25,
    max_distance: Fraction = 0.02,
    direction: Direction = "none",
) -> Attribution:
    """Integrate the gradient along a path on which the values with the smallest gradients move first.

    Value j of the image is at x'_j + α_j (x_j - x'_j). In step k, α grows until Σ_j (1 - α_j) |x_j - x'_j| has fallen to
    (1 - (k+1)/T) of its initial value, within the band (k+1)/T ± ``max_distance``. First, values below the band are raised to its
    lower edge. Then, repeatedly, the ``fraction`` with the smallest |∂f/∂x_j| among the values below the upper edge is raised to that
    edge; the last group only as far as needed. φ = Σ_k (x_{k+1} - x_k) ⊙ ∇f(x_k).
    Sums to f(x) - f(x') up to the error of the steps; ``expected`` holds that difference.
    direction=idgi: φ = Σ_k (f(x_{k+1}) - f(x_k)) ∇f(x_k)² / ‖∇f(x_k)‖² on the same path; see integrated-gradients.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    baseline: as in ``integrated-gradients``.
    steps: number of steps T.
    fraction: share of the values below the upper edge that are raised at a time.
    max_distance: 0 is integrated gradients by the left rule; 1 allows any path through the box.
    direction: ``none``, or ``idgi`` to share each change of the score along the path by the squares of the gradient.
    """
    start = make_baseline(baseline, x, oracle.mean_color(x), rng)
    line = x - start
    distance = line.abs().flatten(1)
    alpha, total = torch.zeros_like(distance), torch.zeros_like(distance)
    changes = ScoreChanges(x) if direction == "idgi" else None
    for step in range(steps):
        point = torch.lerp(start, x, alpha.unflatten(1, x.shape[1:]))
        result = oracle.gradients(point, y)
        if changes is not None:
            changes.add(slice(None), result.scores[:, None], result.values[:, None])
        gradient = result.values.flatten(1)
        moved = _advance(alpha, gradient.abs(), distance, (step + 1) / steps, fraction, max_distance)
        total += (moved - alpha) * gradient
        alpha = moved
    if changes is not None:
        values, expected = changes.finish(oracle.scores(x, y))
        return Attribution(values, expected=expected)
    return Attribution(line * total.unflatten(1, x.shape[1:]), expected=oracle.score_change(start, x, y))


def _advance(
    alpha: Tensor, size: Tensor, distance: Tensor, goal: float, fraction: float, max_distance: float
) -> Tensor:
    """Return the shares α (B, d) after one step.

    size: |gradients| (B, d). distance: |x - x'| (B, d). goal: the mean share to reach.
    Images that have reached the goal are masked until all others have reached it. Whether all have is read in every round on a CPU and in
    every ``ROUNDS_PER_READ`` rounds on other devices, which the program would wait for; rounds after the last one change nothing.
    """
    low, high = max(goal - max_distance, 0.0), min(goal + max_distance, 1.0)
    rank = int(fraction * (size.shape[1] - 1)) + 1  # numpy's "lower" quantile
    total_distance = distance.sum(dim=1, dtype=torch.float64)
    tolerance = total_distance * max(1e-9, 4 * torch.finfo(alpha.dtype).eps)
    alpha = alpha.clamp(min=low)
    rounds_per_read = 1 if alpha.device.type == "cpu" else ROUNDS_PER_READ
    for number in count():
        left = ((1 - alpha) * distance).sum(dim=1, dtype=torch.float64) - (1 - goal) * total_distance
        movable = (alpha < high) & (distance > 0) & (left > tolerance)[:, None]
        if number % rounds_per_read == rounds_per_read - 1 and not bool(movable.any()):
            break
        ranked = torch.where(movable, size.nan_to_num(nan=torch.inf), torch.inf)  # NaN last, so that the loop ends
        chosen = movable & (ranked <= ranked.kthvalue(rank, dim=1, keepdim=True).values)
        reach = ((high - alpha) * distance * chosen).sum(dim=1, dtype=torch.float64)
        share = (left / reach.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1).to(alpha.dtype)[:, None]
        raised = torch.where(share < 1, torch.lerp(alpha, alpha.new_full((), high), share), high)
        alpha = torch.where(chosen, raised, alpha)
    return alpha
