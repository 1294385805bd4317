"""BIG (boundary-based integrated gradients): the baseline is a point on the decision boundary."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import AutoSteps, Positive, Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._nested_steps import MAX_STEPS, TOLERANCE, integrate_to_tolerance
from xplain.methods._paths import project
from xplain.methods._quadrature import quadrature
from xplain.methods._rounds import Count, check_auto, max_count
from xplain.methods.integrated_gradients import line_integral
from xplain.oracle import Oracle
from xplain.oracle.oracle import GradientResult

BISECTIONS = 10  # locate the boundary to 1/1024 of a step


def _cost(variant: str, attack_steps: int, steps: Count, max_steps: int, **_: object) -> tuple[int, int]:
    """Return the maximum (forward, backward) rows per image."""
    bisections = BISECTIONS if variant == "paper" else 0
    nodes = max_count(steps, max_steps)
    return attack_steps + 1 + bisections + nodes, attack_steps + nodes


@method(
    "boundary-ig",
    alias="big",
    paper=Paper(
        "Robust models are more interpretable because attributions look normal",
        "Zifan Wang, Matt Fredrikson, Anupam Datta",
        2022,
        "ICML",
        "2103.11257",
    ),
    score="prob",
    axioms=frozenset({"completeness", "dummy", "implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    cost=_cost,
    at_most=True,
    deviations="variant=paper: one signed attack that stops where the label changes, then a bisection of its last step; the paper takes "
    "the closest end point of several attacks. variant=official: the code published with MFABA. It never stops, accumulates its "
    "gradients (they are never cleared), and weights 50 trapezoid nodes by 1/50, so that the share 1/steps of the sum is missing; its "
    "seven radii have no effect, since the attack never gets that far. Its loss is the cross-entropy of a softmax of a softmax, whose "
    "gradient is -∇p_t except for a term that vanishes with many classes; -∇p_t is used here (score=prob).",
    added=frozenset({"tolerance", "max_steps"}),
    plain=True,
    rounding="Signed steps: gradient entries near zero change sign between correct float32 implementations.",
)
def boundary_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    variant: Literal["paper", "official"] = "paper",
    attack_steps: Steps = 50,
    attack_step_size: Positive = 0.001,
    steps: AutoSteps = 50,
    radius: Positive | None = None,
    tolerance: Positive = TOLERANCE,
    max_steps: Steps = MAX_STEPS,
) -> Attribution:
    """Compute integrated gradients from a point on the decision boundary near the image.

    x_{j+1} = x_j - ε sign ∇f(x_j), clamped to [0, 1] (and to x ± radius), until the predicted label differs from the image's label;
    x_b = the first point beyond the boundary on that last step, located by bisection;
    φ = (x - x_b) ⊙ ∫₀¹ ∇f(x_b + t (x - x_b)) dt, by ``steps`` Gauss-Legendre nodes. Sums to f(x) - f(x_b).
    If the label does not change, x_b is the last point of the attack, and the image is flagged.
    ``details`` hold the L2 distance to x_b and the number of attack steps.
    The label is the top class; if an image can have several labels, or has a value, it is whether the model finds the target in it.
    Raises UsageError for variant=official with steps=1 or steps=auto, and for values without a threshold.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    variant: ``official`` always takes ``attack_steps`` steps, along the sign of the sum of all gradients so far, and uses trapezoid nodes.
    attack_steps: maximum number of steps of the attack.
    attack_step_size: ε in pixel units.
    steps: number of nodes of the integral, or auto as in integrated-gradients.
    tolerance: as in ``integrated-gradients``.
    max_steps: as in ``integrated-gradients``.
    radius: maximum distance from the image per value, in pixel units; none: unlimited.
    """
    check_auto("boundary-ig", "steps", steps, tolerance, TOLERANCE)
    if not oracle.output.has_decisions:
        raise UsageError(
            "boundary-ig requires a decision, but the model returns a value without a threshold",
            "set the threshold of the model, or use integrated-gradients",
        )
    if variant == "official" and steps == "auto":
        raise UsageError("steps=auto is not defined for variant=official", "set a number of steps")
    nodes = None if steps == "auto" else _find_nodes(variant, steps, x)
    take_attack = _attack_all_steps if variant == "official" else _attack_to_boundary
    attack = take_attack(oracle, x, y, attack_steps, attack_step_size, radius)
    if nodes is None:
        result = integrate_to_tolerance(oracle, x, y, attack.end, tolerance=tolerance, max_steps=max_steps)
    else:
        total = (x - attack.end) * line_integral(oracle, x, y, attack.end, *nodes)
        result = Attribution(total, expected=oracle.score_change(attack.end, x, y))
    distance = (x - attack.end).detach().flatten(1).norm(dim=1)
    return replace(
        result,
        details=result.details | {"distance": distance, "attack_steps": attack.steps},
        flags=result.flags | {f"the predicted class did not change within {attack_steps} steps": ~attack.changed},
    )


def _find_nodes(variant: str, steps: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights (steps,) of the line integral. Raises UsageError for variant=official with one step."""
    if variant == "paper":
        return quadrature("gauss-legendre", steps, x)
    nodes, weights = quadrature("trapezoid", steps, x)
    return nodes, weights * (steps - 1) / steps


class _Attack(NamedTuple):
    """Result of an attack: end points (B, C, H, W), steps taken (B,), and whether the label changed (B,)."""

    end: Tensor
    steps: Tensor
    changed: Tensor


class _Label(NamedTuple):
    """The labels of the images: classes (B,), and whether the model decides for them (B,)."""

    classes: Tensor
    decided: Tensor


def _find_label(oracle: Oracle, result: GradientResult, y: Tensor) -> _Label:
    """Return the labels of the images from their first gradients: the top classes, or the decisions on the targets."""
    is_exclusive = oracle.output.activation in ("softmax", "binary")
    classes = result.predicted if is_exclusive else y
    return _Label(classes, result.decides(classes))


def _attack_to_boundary(
    oracle: Oracle, x: Tensor, y: Tensor, steps: int, step_size: float, radius: float | None
) -> _Attack:
    """Attack each image until its label changes, and return a point just beyond the boundary."""
    steps_taken = torch.zeros(len(x), dtype=torch.long, device=x.device)
    label, changed = _Label(y, torch.zeros_like(y, dtype=torch.bool)), torch.zeros_like(y, dtype=torch.bool)
    before, after = x.clone(), x.clone()  # the ends of each image's last step
    active, point = torch.arange(len(x), device=x.device), x
    for step in range(steps):
        result = oracle.gradients(point, y[active], active)
        if step == 0:
            label = _find_label(oracle, result, y)
        has_changed = result.decides(label.classes[active]) != label.decided[active]
        changed[active] = has_changed
        rest = (~has_changed).nonzero()[:, 0]  # the only wait for the device in a step
        active, point, gradient = active[rest], point[rest], result.values[rest]
        if not len(active):
            break
        before[active] = point
        point = project(point - step_size * gradient.sign(), x[active], radius)
        after[active] = point
        steps_taken[active] = step + 1
    if len(active):  # the last step is not yet classified
        changed[active] = oracle.decides(point, label.classes[active], active) != label.decided[active]
    image = changed.nonzero()[:, 0]
    if len(image):
        label = _Label(label.classes[image], label.decided[image])
        after[image] = _bisect(oracle, before[image], after[image], label, image)
    return _Attack(after, steps_taken, changed)


def _bisect(oracle: Oracle, inside: Tensor, outside: Tensor, label: _Label, image: Tensor) -> Tensor:
    """Move ``outside`` (N, C, H, W) toward ``inside`` up to the boundary by ``BISECTIONS`` bisections.

    label: (N,) the labels of the images. image: (N,) the indices of the images.
    """
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        is_outside = (oracle.decides(middle, label.classes, image) != label.decided)[:, None, None, None]
        inside, outside = torch.where(is_outside, inside, middle), torch.where(is_outside, middle, outside)
    return outside


def _attack_all_steps(
    oracle: Oracle, x: Tensor, y: Tensor, steps: int, step_size: float, radius: float | None
) -> _Attack:
    """Attack each image for all steps, as the published code does."""
    point, gradient_sum, label = x, torch.zeros_like(x), _Label(y, torch.ones_like(y, dtype=torch.bool))
    for step in range(steps):
        result = oracle.gradients(point, y)
        if step == 0:
            label = _find_label(oracle, result, y)
        gradient_sum = gradient_sum + result.values
        point = project(point - step_size * gradient_sum.sign(), x, radius)
    changed = oracle.decides(point, label.classes) != label.decided
    return _Attack(point, torch.full_like(y, steps), changed)
