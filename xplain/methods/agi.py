"""AGI: paths that climb the probability of false classes, integrated for the true one."""

from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._quadrature import quadrature
from xplain.methods.integrated_gradients import line_integral
from xplain.oracle import Oracle

Variant = Literal["official", "paper"]


@method(
    "agi",
    paper=Paper(
        "Explaining deep neural network models with adversarial gradient integration", "Pan, Li, Zhu", 2021, "IJCAI"
    ),
    score="prob",
    axioms=frozenset({"dummy", "implementation-invariance"}),
    cost=lambda steps, classes, path, **_: (
        (classes * steps, classes * 2 * steps) if path == "curve" else (classes * 2 * steps, classes * 2 * steps)
    ),
    at_most=True,
    parallel=lambda classes, **_: classes,
    deviations="variant=official restarts every step from the clean image, as the authors' program does: it is no path integral "
    "and not complete. variant=paper is Algorithm 1 with the clamp to [0, 1] and the displacement after it. False classes are drawn "
    "for each image from all classes but the target; the program draws once a run, or takes a fixed grid. One softmax.",
    plain=True,
    rounding="Signed steps: gradient entries near zero change sign between correct float32 programs. Least cosine on eight "
    "photographs, 3 classes: batch size 1 against 7 and auto 1.00 at one step, 0.93 at five; float32 against float64 1.00 and 0.72.",
)
def agi(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    against: Tensor | None,
    variant: Variant = "official",
    path: Literal["curve", "straight"] = "curve",
    step_size: Positive = 0.05,
    steps: Steps = 20,
    classes: Steps = 20,
) -> Attribution:
    """Gradients of the target along signed ascents of false classes, times the displacements, summed over the classes.

    For each false class i, until argmax f(x_j) = i or ``steps``: d = ε sign ∇f^i(x_j);
    paper: x_{j+1} = clamp(x_j + d), φ -= ∇f^t(x_j) ⊙ (x_{j+1} - x_j), complete for each class: sum = f^t(x) - f^t(x'_i);
    official: x_{j+1} = clamp(x_0 + d), φ -= ∇f^t(x_j) ⊙ (x_{j+1} - x_0).
    path=straight integrates from the end points x'_i to x along lines instead (Fig. 4), by ``steps`` Gauss-Legendre nodes.
    against: exactly these false classes, else ``classes`` random ones of each image (all there are, if fewer).
    Signs amplify rounding: float32 results repeat on one machine with one batch size, and drift apart otherwise (see ``rounding``).
    step_size: ε in pixel units. x: (B, C, H, W) in [0, 1], y: (B,). Raises UsageError for a model of one class.
    """
    false = against if against is not None else draw_classes(oracle, x, y, rng, classes)
    image = torch.arange(len(x), device=x.device).repeat_interleave(false.shape[1])
    total, end, taken, reached = _climb(
        oracle, x, y, image, false.flatten(), variant, step_size, steps, path == "curve"
    )
    if path == "straight":
        nodes, weights = quadrature("gauss-legendre", steps, x)
        lines = line_integral(oracle, x[image], y[image], end, nodes, weights, image)
        total = torch.zeros_like(x).index_add_(0, image, (x[image] - end) * lines)
    expected = None
    if variant == "paper" or path == "straight":
        drops = oracle.scores(x, y, check=True)[image] - oracle.scores(end, y[image], image, check=True)
        expected = drops.unflatten(0, false.shape).sum(dim=1)
    return Attribution(
        total,
        expected=expected,
        details={"classes": false, "steps": taken.unflatten(0, false.shape)},
        flags={f"no false class was reached within {steps} steps": ~reached.unflatten(0, false.shape).any(dim=1)},
    )


def draw_classes(oracle: Oracle, x: Tensor, y: Tensor, rng: Streams, count: int) -> Tensor:
    """(B, k) distinct classes of each image, none the target, evenly likely."""
    total = oracle.logits(x[:1], check=True).shape[1]
    if total < 2:
        raise UsageError("there is no false class: the model has one class", "use another method")
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    keys = rng.uniform(first, (total,), torch.float64)[:, 0].scatter(1, y[:, None], 2.0)
    return keys.argsort(dim=1)[:, : min(count, total - 1)]


def _climb(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    image: Tensor,
    false: Tensor,
    variant: Variant,
    step_size: float,
    steps: int,
    both: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All ascents at once, one row for each (image, false class); rows that arrived leave the batch.

    Returns the attributions (B, C, H, W), the last point of each row (R, C, H, W), the steps each took and whether it
    arrived. ``both``: differentiate the target too; else only the false class, and the attributions stay zero.
    """
    total, end = torch.zeros_like(x), x[image]
    taken = torch.zeros(len(image), dtype=torch.long, device=x.device)
    reached = torch.zeros(len(image), dtype=torch.bool, device=x.device)
    live, point = torch.arange(len(image), device=x.device), end
    for step in range(steps):
        wanted = torch.stack([false[live], y[image[live]]], dim=1) if both else false[live, None]
        found = oracle.gradients(point, wanted, image[live])
        arrived = found.predicted == false[live]
        reached[live] = arrived
        gradients = found.values[~arrived]
        live, point = live[~arrived], point[~arrived]
        if not len(live):
            break
        origin = x[image[live]]
        target = ((point if variant == "paper" else origin) + step_size * gradients[:, 0].sign()).clamp(0, 1)
        if both:
            move = target - (point if variant == "paper" else origin)
            total.index_add_(0, image[live], -gradients[:, 1] * move)
        point = target
        end[live] = point
        taken[live] = step + 1
    if len(live):  # did the last step arrive?
        reached[live] = oracle.logits(point, check=True).argmax(dim=1) == false[live]
    return total, end, taken, reached
