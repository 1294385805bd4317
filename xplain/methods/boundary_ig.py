"""BIG: integrated gradients from the nearest point that an attack finds on the decision boundary."""

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._quadrature import quadrature
from xplain.methods.integrated_gradients import line_integral
from xplain.oracle import Oracle

BISECTIONS = 10  # the boundary is found to a 1024th of a step


@method(
    "boundary-ig",
    alias="big",
    paper=Paper(
        "Robust models are more interpretable because attributions look normal",
        "Wang, Fredrikson, Datta",
        2022,
        "ICML",
        "2103.11257",
    ),
    score="prob",
    axioms=frozenset({"completeness", "dummy", "implementation-invariance"}),
    cost=lambda variant, attack_steps, steps, **_: (
        attack_steps + 1 + (BISECTIONS if variant == "paper" else 0) + steps,
        attack_steps + steps,
    ),
    at_most=True,
    deviations="variant=paper: one signed attack that stops where the label changes, then a bisection of its last step; the paper takes "
    "the closest end point of several attacks. variant=official: the program published with MFABA. It never stops, adds up its gradients "
    "(they are never cleared), and weighs 50 trapezoid nodes by 1/50, so that a share 1/steps of the sum is missing; its seven "
    "radii change nothing, since the attack never gets so far. Its loss is the cross-entropy of a softmax of a softmax, whose gradient "
    "is -∇p_t but for a term that vanishes with many classes; -∇p_t is used here (score=prob).",
    plain=True,
    rounding="Signed steps: entries of the gradient near zero change sign between correct float32 programs.",
)
def boundary_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    variant: Literal["paper", "official"] = "paper",
    attack_steps: Steps = 50,
    attack_step_size: Positive = 0.001,
    steps: Steps = 50,
    radius: Positive | None = None,
) -> Attribution:
    """Integrated gradients from a point on the decision boundary near the image.

    x_{j+1} = x_j - ε sign ∇f(x_j), clamped to [0, 1] (and to x ± radius), until the model's label is not the image's own;
    x_b = the first point behind the boundary on that last step, found by bisection;
    φ = (x - x_b) ⊙ ∫₀¹ ∇f(x_b + t (x - x_b)) dt, by ``steps`` Gauss-Legendre nodes. Sums to f(x) - f(x_b).
    official: always ``attack_steps`` steps, along the sign of the sum of all gradients so far; trapezoid nodes.
    Where the label does not change, x_b is the attack's last point, and the image is flagged.
    ``details`` give the L2 distance to x_b and the steps of the attack. attack_step_size ε and radius in pixel units.
    x: (B, C, H, W) in [0, 1], y: (B,). Raises UsageError for variant=official with one step.
    """
    if variant == "official":
        nodes, weights = quadrature("trapezoid", steps, x)
        weights = weights * (steps - 1) / steps
    else:
        nodes, weights = quadrature("gauss-legendre", steps, x)
    attack = _attack_all_the_way if variant == "official" else _attack_to_the_boundary
    end, taken, changed = attack(oracle, x, y, attack_steps, attack_step_size, radius)
    total = (x - end) * line_integral(oracle, x, y, end, nodes, weights)
    return Attribution(
        total,
        expected=oracle.change(end, x, y),
        details={"distance": (x - end).detach().flatten(1).norm(dim=1), "attack_steps": taken},
        flags={f"the label did not change within {attack_steps} steps": ~changed},
    )


def _attack_to_the_boundary(
    oracle: Oracle, x: Tensor, y: Tensor, steps: int, step_size: float, radius: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C, H, W) points just behind the boundary, (B,) steps taken, (B,) whether the label changed."""
    taken = torch.zeros(len(x), dtype=torch.long, device=x.device)
    label, changed = torch.zeros_like(y), torch.zeros_like(y, dtype=torch.bool)
    before, after = x.clone(), x.clone()  # the ends of each image's last step
    live, point = torch.arange(len(x), device=x.device), x
    for step in range(steps + 1):
        if step < steps:
            found = oracle.gradients(point, y[live], live)
            predicted, slope = found.predicted, found.values
        else:
            predicted, slope = oracle.logits(point, live).argmax(dim=1), point
        if step == 0:
            label = predicted
        changed[live] = predicted != label[live]
        keep = ~changed[live]
        live, point, slope = live[keep], point[keep], slope[keep]
        if step == steps or not len(live):
            break
        before[live] = point
        point = _limit(point - step_size * slope.sign(), x[live], radius)
        after[live] = point
        taken[live] = step + 1
    which = changed.nonzero()[:, 0]
    low, high = before[which], after[which]
    for _ in range(BISECTIONS if len(which) else 0):
        middle = (low + high) / 2
        behind = (oracle.logits(middle, which).argmax(dim=1) != label[which])[:, None, None, None]
        low, high = torch.where(behind, low, middle), torch.where(behind, middle, high)
    after[which] = high
    return after, taken, changed


def _attack_all_the_way(
    oracle: Oracle, x: Tensor, y: Tensor, steps: int, step_size: float, radius: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_attack_to_the_boundary``, by the published program."""
    point, slope, label = x, torch.zeros_like(x), y
    for step in range(steps):
        found = oracle.gradients(point, y)
        label = found.predicted if step == 0 else label
        slope = slope + found.values
        point = _limit(point - step_size * slope.sign(), x, radius)
    changed = oracle.logits(point).argmax(dim=1) != label
    return point, torch.full_like(y, steps), changed


def _limit(point: Tensor, x: Tensor, radius: float | None) -> Tensor:
    """The point inside [0, 1] and x ± radius."""
    if radius is not None:
        point = torch.minimum(torch.maximum(point, x - radius), x + radius)
    return point.clamp(0, 1)
