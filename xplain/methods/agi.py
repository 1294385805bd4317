"""AGI (adversarial gradient integration): gradients along ascents of false classes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import ExistingPath, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._false_classes import MISSING, NO_FALSE_CLASS, NO_PATH, Draw, choose_classes, pair_images
from xplain.methods._paths import normalize_l2
from xplain.methods._quadrature import quadrature
from xplain.methods.integrated_gradients import line_integral
from xplain.oracle import Oracle

Variant = Literal["official", "paper"]
Ascent = Literal["sign", "l2"]


def _cost(steps: int, classes: int, path: str, nodes: int | None = None, **_: object) -> tuple[int, int]:
    """Return the (forward, backward) rows per image."""
    if path == "curve":
        return classes * steps, classes * 2 * steps
    rows = classes * (steps + (nodes or steps))
    return rows, rows


@method(
    "agi",
    paper=Paper(
        "Explaining deep neural network models with adversarial gradient integration",
        "Deng Pan, Xin Li, Dongxiao Zhu",
        2021,
        "IJCAI",
    ),
    score="prob",
    axioms=frozenset({"dummy", "implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    limits="variant=paper sums to the score difference only for small steps: the gap on eight photographs (EfficientNet-Lite0, 3 classes) "
    "is 16 to 196 times the difference with step_size=0.05 and 1.4 to 39 times with step_size=0.01. path=straight leaves 0.004 to 0.05 "
    "of it at the defaults (four photographs, 2 classes). Gaps above 0.1 are flagged.",
    cost=_cost,
    at_most=True,
    parallel=lambda classes, **_: classes,
    deviations="variant=official restarts every step from the clean image, as the authors' code does; it is not a path integral "
    "and not complete. variant=paper is Algorithm 1 with a clamp to [0, 1]; the displacement is computed after the clamp. False classes "
    "are drawn per image from all classes except the target; the code draws once per run or uses a fixed grid. "
    "The softmax is applied once; the code applies it twice (double_softmax).",
    added=frozenset({"ascent", "draw", "nodes", "double_softmax", "distances"}),
    plain=True,
    rounding="Signed steps: gradient entries near zero change sign between correct float32 implementations. Smallest cosine similarity on "
    "eight photographs with 3 classes: batch size 1 against 7 and auto 1.00 at one step, 0.93 at five; float32 against float64 1.00 and "
    "0.72.",
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
    ascent: Ascent = "sign",
    draw: Draw = "random",
    nodes: Steps | None = None,
    double_softmax: bool = False,
    distances: ExistingPath | None = None,
) -> Attribution:
    """Integrate the target's gradient along ascents of false classes, and sum over the classes.

    For each false class i, until the model decides for i or for ``steps`` steps: d = ε sign ∇f^i(x_j), or ε ∇f^i / ‖∇f^i‖₂;
    paper: x_{j+1} = clamp(x_j + d), φ -= ∇f^t(x_j) ⊙ (x_{j+1} - x_j), a left Riemann sum of f^t(x) - f^t(x'_i) for each class, which
    large steps miss by far (see ``limits``);
    official: x_{j+1} = clamp(x_0 + d), φ -= ∇f^t(x_j) ⊙ (x_{j+1} - x_0).
    Signs amplify rounding: float32 results repeat on one machine with one batch size, and differ otherwise (see ``rounding``).
    On 20 ImageNet photographs (EfficientNet-Lite0, classes=5), the maps of the two variants have a cosine similarity of 0.79 (0.57 to 0.97)
    and a Spearman correlation of 0.60 (0.30 to 0.91). On 40, with black and 28 steps,
    insertion is 0.294 and 0.143, and deletion 0.147 and 0.126.
    Raises UsageError if the model has only one class, or returns values instead of classes, and for ``double_softmax`` with another
    score than prob, or if the model has no softmax; for draw=near or spread without ``distances`` if the network does not end in a
    linear layer, and for ``distances`` with another ``draw``. Raises InputError if the file has no such matrix.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    against: false classes (B, A) to use instead of random ones.
    variant: the steps of the paper or of the authors' code.
    path: ``straight`` integrates along the lines from the end points x'_i to x instead (Fig. 4), with ``nodes`` Gauss-Legendre nodes.
    step_size: ε in pixel units; for ascent=l2 the L2 length of a step of the whole image, such as 1.
    steps: maximum number of steps per false class.
    classes: number of random false classes per image; all other classes if the model has fewer. If an image can have several labels,
    the false classes are those that the model does not find in it; without one the map is zero, and the image is flagged.
    ascent: step along the signs of the gradient, or along its direction (``l2``, Definition 2).
    draw: ``random`` false classes; ``top`` (or ``nearest``): those with the largest logits; ``near``: those closest to the target;
    ``spread``: one by one, the class farthest from the target and the classes before it (section 5.4 suggests to choose by meaning).
    distances: file of the distances between classes for ``near`` and ``spread``, such as those of WordNet: an .npy matrix or lines of
    numbers with commas, in the order of the model's outputs; none: 1 - cosine between the rows of the last linear layer.
    nodes: number of nodes of a straight line; none: as many as ``steps``.
    double_softmax: explain and climb q, the softmax of the probabilities p, as the authors' code does. The ascent of an improbable class
    then mostly descends the target: for the class of rank 500, cos(∇q_i, -∇p_t) is 0.90 (95 % interval 0.82 to 0.97) and cos(∇q_i, ∇p_i)
    0.85 (0.77 to 0.91), against 0.65 for cos(∇p_i, -∇p_t); for the runner-up nothing changes (20 photographs, EfficientNet-Lite0). The maps
    have a Pearson correlation of 0.83 (0.80 to 0.86) with those of one softmax, and those of other random classes 0.73 (classes=4).
    """
    if double_softmax:
        if oracle.score != "prob":
            raise UsageError(f"agi: double_softmax does not apply to score={oracle.score}", "use score=prob")
        oracle.score = "double-prob"
    is_complete = variant == "paper" or path == "straight"
    false_classes = choose_classes(oracle, x, y, rng, classes, against, "agi", draw, distances)
    image, false_class = pair_images(false_classes)
    if not len(image):  # every label is present in every image
        no_steps = torch.zeros_like(false_classes)
        expected = torch.zeros_like(x[:, 0, 0, 0]) if is_complete else None
        return _describe(torch.zeros_like(x), expected, false_classes, no_steps, no_steps > 0, steps)
    ascents = _climb(
        oracle, x, y, image, false_class, variant, ascent, step_size, steps, differentiate_target=path == "curve"
    )
    total, end = ascents.total, ascents.end
    if path == "straight":
        alphas, weights = quadrature("gauss-legendre", nodes or steps, x)
        gradients = line_integral(oracle, x[image], y[image], end, alphas, weights, image)
        total = torch.zeros_like(x).index_add_(0, image, (x[image] - end) * gradients)
    expected = None
    if is_complete:
        drops = oracle.scores(x, y, check=True)[image] - oracle.scores(end, y[image], image, check=True)
        expected = _spread(drops, false_classes).sum(dim=1)
    steps_taken, has_reached = _spread(ascents.steps, false_classes), _spread(ascents.reached, false_classes)
    return _describe(total, expected, false_classes, steps_taken, has_reached, steps)


def _describe(
    total: Tensor, expected: Tensor | None, false_classes: Tensor, taken: Tensor, reached: Tensor, steps: int
) -> Attribution:
    """Return the attribution with its flags.

    taken, reached: (B, k) steps taken toward each false class, and whether the model decides for it at the end.
    """
    exists = false_classes != MISSING
    has_path = (taken > 0).any(dim=1)
    has_reached = (reached & (taken > 0)).any(dim=1)
    reached_share = (reached & exists).sum(dim=1) / exists.sum(dim=1).clamp(min=1)
    return Attribution(
        total,
        expected=expected,
        details={"classes": false_classes, "steps": taken, "reached_share": reached_share},
        flags={
            f"the attack reached no false class within {steps} steps": ~has_reached & has_path,
            NO_PATH: ~has_path & exists.any(dim=1),
            NO_FALSE_CLASS: ~exists.any(dim=1),
        },
    )


def _spread(values: Tensor, false_classes: Tensor) -> Tensor:
    """Return values (R,) of the pairs of an image and a false class as (B, k); 0 where the image has no false class."""
    spread = torch.zeros(false_classes.shape, dtype=values.dtype, device=values.device)
    spread[false_classes != MISSING] = values
    return spread


class _Ascents(NamedTuple):
    """The ascents of all R pairs of an image and a false class.

    total: attributions (B, C, H, W). end: last points (R, C, H, W). steps: steps taken (R,).
    reached: (R,) bool, whether the model decides for the false class.
    """

    total: Tensor
    end: Tensor
    steps: Tensor
    reached: Tensor


def _climb(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    image: Tensor,
    false_class: Tensor,
    variant: Variant,
    ascent: Ascent,
    step_size: float,
    steps: int,
    *,
    differentiate_target: bool,
) -> _Ascents:
    """Run all ascents in one batch; a row leaves the batch once the model decides for its false class.

    image, false_class: (R,) the pairs. differentiate_target: if false, the attributions stay zero.
    """
    total, end = torch.zeros_like(x), x[image]
    steps_taken = torch.zeros(len(image), dtype=torch.long, device=x.device)
    reached = torch.zeros(len(image), dtype=torch.bool, device=x.device)
    active, point = torch.arange(len(image), device=x.device), end
    for step in range(steps):
        classes = false_class[active, None]
        if differentiate_target:
            classes = torch.stack([false_class[active], y[image[active]]], dim=1)
        result = oracle.gradients(point, classes, image[active])
        has_reached = result.decides(false_class[active])
        reached[active] = has_reached
        rest = (~has_reached).nonzero()[:, 0]  # the only wait for the device in a step
        gradients, active, point = result.values[rest], active[rest], point[rest]
        if not len(active):
            break
        origin = point if variant == "paper" else x[image[active]]
        direction = gradients[:, 0].sign() if ascent == "sign" else normalize_l2(gradients[:, 0])
        next_point = (origin + step_size * direction).clamp(0, 1)
        if differentiate_target:
            total.index_add_(0, image[active], -gradients[:, 1] * (next_point - origin))
        point = next_point
        end[active] = point
        steps_taken[active] = step + 1
    if len(active):  # the last step is not yet classified
        reached[active] = oracle.decides(point, false_class[active], check=True)
    return _Ascents(total, end, steps_taken, reached)
