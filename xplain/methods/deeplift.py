"""DeepLIFT: differences to a baseline, propagated from the score to the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.oracle import Oracle
from xplain.oracle.operations import Kind, Operation
from xplain.oracle.propagation import (
    Rule,
    Rules,
    derivative,
    keep_gradient,
    propagate,
    with_gradient_of,
)

DeepLiftRule = Literal["rescale", "reveal-cancel"]
INSTEAD = "integrated-gradients and uniform-fullgrad fit"
SAME = 4  # differences below this many units of rounding count as none, and the derivative is the multiplier


@method(
    "deeplift",
    paper=Paper(
        "Learning important features through propagating activation differences",
        "Shrikumar, Greenside, Kundaje",
        2017,
        "ICML",
        "1704.02685",
    ),
    axioms=frozenset({"completeness"}),
    cost=lambda rule, **_: (2, 2) if rule == "rescale" else (3, 3),
    parallel=lambda rule, **_: 2 if rule == "rescale" else 3,
    deviations="Beyond the paper: max-pooling by the Rescale rule on v + ReLU(u - v), for u the winner at the image and v at the "
    "baseline, which is complete for overlapping windows too; products of activations by the mean of both orders. "
    "Convolutions and linear layers split differences by sign; additions, means and batch norms pass the two parts on.",
)
def deeplift(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    rule: DeepLiftRule = "rescale",
    baseline: Baseline = "black",
    center: bool = False,
) -> Attribution:
    """Contributions of the pixels' differences to a baseline, by multipliers that obey the chain rule.

    C = m Δx, Δ = value at the image minus value at the baseline, Σ C = Δf. x: (B, C, H, W) in [0, 1], y: (B,).
    Linear operations: m is the weight. rule=rescale: m = Δy / Δx for a function y of one number; its derivative where
    Δx is nothing but rounding. rule=reveal-cancel: Δx = Δx⁺ + Δx⁻ by the sign of the contributions w_i Δx_i to a
    convolution or linear layer (half each where Δx_i = 0), and each part gets its Shapley value in y:
    Δy⁺ = ½ [y(x'+Δx⁺) - y(x')] + ½ [y(x'+Δx⁺+Δx⁻) - y(x'+Δx⁻)], m⁺ = Δy⁺ / Δx⁺; Δy⁻ alike.
    center: explain the logit minus the mean of all logits, the paper's adjustment for a softmax output.
    ``expected`` holds the score's difference. Defined for the logit (also against other classes). Raises UsageError for
    other scores and for operations that are no function of one number, such as layer norms and attention.
    """
    start = make_baseline(baseline, x, oracle.mean, rng)
    rules = Rules("deeplift", TABLES[rule], INSTEAD, frozenset({"logit"}), _center if center else _as_it_is)
    if rule == "rescale":
        values = (x - start) * propagate(oracle, x, y, rules, start).gradients[:, 0]
    else:
        above = torch.maximum(x, start)  # the baseline with the positive differences alone
        found = propagate(oracle, x, y, rules, start, above).gradients
        values = (x - start) * found[:, 0] + (above - start) * found[:, 2]
    return Attribution(values, expected=_difference(oracle, x, y, start, center))


def _center(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=1, keepdim=True)


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


def _difference(oracle: Oracle, x: Tensor, y: Tensor, start: Tensor, center: bool) -> Tensor:
    """(B,) the score at the image minus the score at the baseline."""
    change = oracle.score_change(start, x, y)
    if center and oracle.against is None:  # against other classes the mean cancels
        change = change - (oracle.logits(x, check=True) - oracle.logits(start, check=True)).mean(dim=1)
    return change


def _quotient(change: Tensor, over: Tensor, at: Tensor, at_none: Tensor) -> Tensor:
    """change / over, and the derivative where ``over`` is not more than the rounding of ``at``."""
    rounding = SAME * torch.finfo(over.dtype).eps * at.abs() + torch.finfo(over.dtype).tiny
    same = over.abs() <= rounding
    return torch.where(same, at_none, change / torch.where(same, 1, over))


# ---------------------------------------------------------- rescale: rows are (image, baseline)


def _rescale(op: Operation) -> Tensor:
    """m = Δy / Δx for both rows, so that what leaves the image's row is the multiplier."""
    source, output = op.inputs[0], op.run()
    (image, base), (top, bottom) = source.detach().chunk(2), output.detach().chunk(2)
    larger = torch.maximum(image.abs(), base.abs())
    multiplier = _quotient(top - bottom, image - base, larger, derivative(op, image))
    return with_gradient_of(output, source * torch.cat([multiplier, multiplier]))


def _rescale_product(op: Operation) -> Tensor:
    """Δ(ab) = mean(a) Δb + mean(b) Δa, the means over image and baseline."""
    means = [_mean(each, 2) for each in op.inputs]
    return with_gradient_of(op.run(), op.run(op.inputs[0], means[1]) + op.run(means[0], op.inputs[1]))


def _mean(rows: Tensor, count: int) -> Tensor:
    """The mean of the image's and the baseline's rows, in the place of each of the ``count`` kinds of row."""
    image, base = rows.detach().chunk(count)[:2]
    return ((image + base) / 2).repeat(count, *[1] * (rows.ndim - 1))


def _rescale_max(op: Operation) -> Tensor:
    output, mix = _winners(op, 2)
    return with_gradient_of(output, mix(op.inputs[0]))


def _winners(op: Operation, rows: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The maxima, and the function λ u + (1 - λ) v of the winners u at the image and v at the baseline of each window.

    max(u, v) = v + ReLU(u - v): with d = u - v at the image (≥ 0) and d' at the baseline (≤ 0), Rescale gives
    λ = d / (d - d'), in [0, 1] with no exception but 0/0, where either share is right.
    """
    source = op.inputs[0].detach()
    output, where = op.run(source, return_indices=True)
    u, v = (each.flatten(2) for each in where.chunk(rows)[:2])

    def lead(values: Tensor) -> Tensor:
        return values.flatten(2).gather(2, u) - values.flatten(2).gather(2, v)

    image, base = source.chunk(rows)[:2]
    ahead, gap = lead(image), lead(image) - lead(base)
    share = torch.where(gap > 0, ahead / torch.where(gap > 0, gap, 1), 0.5).repeat(rows, 1, 1)
    u, v = u.repeat(rows, 1, 1), v.repeat(rows, 1, 1)

    def mix(values: Tensor) -> Tensor:
        mixed = share * values.flatten(2).gather(2, u) + (1 - share) * values.flatten(2).gather(2, v)
        return mixed.view_as(output)

    return output, mix


# --------------- reveal-cancel: rows are (image, baseline, baseline with the positive parts): x, x', x' + Δx⁺
# A rule is right when the image's row has the gradient Δy⁺ m⁺ + Δy⁻ m⁻ and the third row its first term.


def _other(rows: Tensor) -> Tensor:
    """The rows with the parts exchanged: (image, baseline, baseline with the negative parts)."""
    image, base, above = rows.chunk(3)
    return torch.cat([image, base, image + base - above])


def _cancel_affine(op: Operation) -> Tensor:
    """Numbers scaled and shifted one by one pass on their parts; a negative scale exchanges them."""
    rows = op.inputs[0]
    falls = op.run(torch.ones_like(rows)) < op.run(torch.zeros_like(rows))
    return torch.where(falls, op.run(_other(rows)), op.run(rows))


def _cancel_sum(op: Operation) -> Tensor:
    """Sums pass on the parts; what is subtracted exchanges its own."""
    total: Tensor = op.run(op.inputs[0], _other(op.inputs[1])) if op.name == "sub" else op.run()
    return total


def _cancel_linear(op: Operation) -> Tensor:
    """Δy⁺ and Δy⁻: the sums of the positive and of the negative contributions w_i Δx_i."""
    image, base, _ = op.inputs[0].chunk(3)
    change = image - base.detach()
    half = (change > 0).to(change.dtype) + (change == 0).to(change.dtype) / 2
    up, down = change * half.detach(), change * (1 - half.detach())
    weight, *bias = op.constants
    rising = [weight.clamp(min=0), *map(torch.zeros_like, bias)]
    falling = [weight.clamp(max=0), *map(torch.zeros_like, bias)]
    positive = op.run(up, constants=rising) + op.run(down, constants=falling)
    negative = op.run(up, constants=falling) + op.run(down, constants=rising)
    return _rows(op.run(image.detach()), op.run(base.detach()), positive, negative)


def _rows(top: Tensor, bottom: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The rows of an operation's output, from its values and the parts of its difference."""
    return torch.cat([with_gradient_of(top, positive + negative), bottom.detach(), bottom.detach() + positive])


def _cancel(op: Operation) -> Tensor:
    """The Shapley values of the two parts in a function of one number."""
    image, base, above = (each.detach() for each in op.inputs[0].chunk(3))
    below = image + base - above
    x, r, u, v = (op.run(each) for each in (image, base, above, below))
    larger = torch.stack([image, base, above]).abs().amax(dim=0)
    steps = [derivative(op, each) for each in (base, above, below)]
    rise = ((u - r) + (x - v)) / 2
    up = _quotient(rise, above - base, larger, (steps[0] + steps[2]) / 2)
    down = _quotient(((v - r) + (x - u)) / 2, image - above, larger, (steps[0] + steps[1]) / 2)
    live = op.inputs[0].chunk(3)
    positive = with_gradient_of(rise, (live[2] - base) * up)
    return _rows(x, r, positive, (live[0] - live[2]) * down)


def _cancel_max(op: Operation) -> Tensor:
    output, mix = _winners(op, 3)
    top, bottom, _ = output.chunk(3)
    image, base, above = mix(op.inputs[0]).chunk(3)
    return _rows(top, bottom, above - base.detach(), image - above)


def _cancel_product(op: Operation) -> Tensor:
    """As for Rescale; a negative mean exchanges the parts that it scales."""
    means = [_mean(each, 3) for each in op.inputs]

    def scaled(rows: Tensor, by: Tensor) -> Tensor:
        return torch.where(by < 0, _other(rows) * by, rows * by)

    (a, b), (top, bottom, _) = op.inputs, op.run().chunk(3)
    image, base, above = (scaled(a, means[1]) + scaled(b, means[0])).chunk(3)
    return _rows(top, bottom, above - base.detach(), image - above)


TABLES: dict[str, dict[Kind, Rule]] = {
    "rescale": keep_gradient("route", "sum", "shift", "scale", "linear", "norm")
    | {"rectifier": _rescale, "activation": _rescale, "max": _rescale_max, "product": _rescale_product},
    "reveal-cancel": keep_gradient("route")
    | {"sum": _cancel_sum, "shift": _cancel_affine, "scale": _cancel_affine, "norm": _cancel_affine}
    | {"linear": _cancel_linear, "rectifier": _cancel, "activation": _cancel}
    | {"max": _cancel_max, "product": _cancel_product},
}
