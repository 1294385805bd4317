"""Layer-wise relevance propagation: the logit is handed back, layer by layer, in proportion to contributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive
from xplain.core.registry import method
from xplain.core.types import Attribution, ScoreKind
from xplain.oracle import Oracle
from xplain.oracle.operations import Kind, Operation
from xplain.oracle.propagation import (
    Rule,
    Rules,
    keep_gradient,
    propagate,
    with_gradient_of,
)

LrpRule = Literal["zero", "epsilon", "gamma", "z-plus", "alpha-beta", "epsilon-gamma-box", "epsilon-plus"]
INSTEAD = "deeplift, uniform-fullgrad and integrated-gradients fit"
TINY = 1e-9  # keeps LRP-0 and the sums from dividing by zero


@method(
    "lrp",
    paper=Paper(
        "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation",
        "Bach, Binder, Montavon, Klauschen, Müller, Samek",
        2015,
        "PLoS ONE",
        journal=True,
    ),
    deviations="Batch norms are folded into the convolution before them; "
    "one that stands elsewhere (DenseNet) is a layer of its own by LRP-0, where zennit passes relevance on and it grows without bound. "
    "Negative inputs are treated as in zennit. LRP-0 keeps 1e-9 in its denominators.",
)
def lrp(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rule: LrpRule = "epsilon",
    epsilon: Positive = 1e-6,
    gamma: Annotated[float, Bounds(low=0)] = 0.25,
    alpha: Annotated[float, Bounds(low=1)] = 2.0,
) -> Attribution:
    """The logit's relevance, handed back layer by layer in proportion to each input's contribution.

    A layer z_k = Σ_j a_j w_jk + b_k hands R_k to its inputs: R_j = Σ_k a_j ρ(w_jk) R_k / (z_k^ρ + ε sign z_k^ρ), sign 0 = 1.
    rule: zero: ρ(w) = w, ε = 0; epsilon: ε > 0; gamma: ρ(w) = w + γ w⁺ (for a_j, z_k ≥ 0; else the same with signs
    turned); z-plus: positive contributions a w only; alpha-beta: α times the positive minus α - 1 times the negative ones;
    epsilon-plus: z-plus for convolutions, epsilon for linear layers; epsilon-gamma-box: gamma for convolutions, epsilon for
    linear layers, and for the first layer R_j = Σ_k (x_j w - l_j w⁺ - h_j w⁻) R_k / Σ_j (...), [l, h] what pixels 0 and 1
    become. Biases take their part and keep it, so Σ R is the logit minus the biases' relevance.
    Sums, means and residual additions, and batch norms that could not be folded: LRP-0. Activations and constant scales and shifts (the
    normalisation): R passes. Max-pooling: to the winner. Gates (squeeze-excite): the gated input takes all.
    x: (B, C, H, W) in [0, 1], y: (B,). Starts with R = z ⊙ ∂f/∂z at the logits z. Defined for logit and margin. Raises
    UsageError for other scores and for operations without a rule, such as layer norms, attention and equal-sized products.
    """
    parts = {
        "zero": lambda _: plain,
        "epsilon": lambda _: plain,
        "gamma": lambda _: boosted(gamma),
        "z-plus": lambda _: signed(1.0),
        "alpha-beta": lambda _: signed(alpha),
        "epsilon-plus": lambda op: signed(1.0) if is_convolution(op) else plain,
        "epsilon-gamma-box": lambda op: boosted(gamma) if is_convolution(op) else plain,
    }[rule]

    def linear(op: Operation) -> Tensor:
        if rule.endswith("box") and op.has_all_rows:
            return share(op, box, epsilon)
        return share(op, parts(op), TINY if rule == "zero" else epsilon)

    rules = Rules("lrp", PASSING | {"linear": linear}, INSTEAD, SCORES, start)
    return Attribution(relevance(oracle, x, y, rules, boxed=rule.endswith("box")))


def relevance(oracle: Oracle, x: Tensor, y: Tensor, rules: Rules, *, boxed: bool) -> Tensor:
    """The relevance of the pixels. boxed: a black and a white image go with x up to the first layer (see ``box``)."""
    streams = (torch.zeros_like(x), torch.ones_like(x)) if boxed else ()
    return propagate(oracle, x, y, rules, *streams).gradients[:, 0]


# ------------------------------------------ signals are relevances: R_in = J R with J the rule's shares


def carry(source: Tensor, value: Tensor) -> Tensor:
    """``value``, with d value / d source = value: what reaches it as R / a leaves it as a relevance."""
    return with_gradient_of(value, source * value.detach())


def start(logits: Tensor) -> Tensor:
    """The logits, with the signals at them turned into relevances."""
    return carry(logits, logits)


def stable(z: Tensor, epsilon: float) -> Tensor:
    """z, away from zero by ``epsilon``."""
    z = z.detach()
    return z + torch.where(z < 0, -epsilon, epsilon)


class Part(NamedTuple):
    """Contributions a_j w_jk of some inputs by some weights."""

    values: Tensor
    weights: Callable[[Tensor], Tensor]
    bias: bool = True


Group = tuple[Tensor | float, list[Part]]  # a factor (of R, each output's own) and the contributions that share it
Parts = Callable[[Operation, Tensor], list[Group]]


def share(op: Operation, parts: Parts, epsilon: float) -> Tensor:
    """Σ over groups: factor · contributions / their sum; the operation's value is its own."""
    source = op.inputs[0]
    boxes = source.chunk(3) if parts is box else (source,)
    output = op.run(boxes[0].detach())
    total = torch.zeros_like(output)
    for factor, group in parts(op, source.detach()):
        z = sum_of(op, boxes[0], group)
        total = total + factor * z / stable(z, epsilon)
    return with_gradient_of(output, total)


def sum_of(op: Operation, source: Tensor, group: list[Part]) -> Tensor:
    """The sum of a group's contributions, with their values as derivatives."""
    found = []
    for values, weights, bias in group:
        weight, *rest = op.constants
        kept = [weights(each) if bias else torch.zeros_like(each) for each in rest]
        found.append(op.run(carry(source, values), constants=[weights(weight), *kept]))
    return torch.stack(found).sum(dim=0) if len(found) > 1 else found[0]


def same(weight: Tensor) -> Tensor:
    return weight


def rising(weight: Tensor) -> Tensor:
    return weight.clamp(min=0)


def falling(weight: Tensor) -> Tensor:
    return weight.clamp(max=0)


def plain(op: Operation, a: Tensor) -> list[Group]:
    """LRP-0 and epsilon."""
    return [(1.0, [Part(a, same)])]


def signed(alpha: float) -> Parts:
    """α times the positive contributions minus (α - 1) times the negative ones; a bias is on its own sign's side."""

    def parts(op: Operation, a: Tensor) -> list[Group]:
        positive = [Part(a.clamp(min=0), rising), Part(a.clamp(max=0), falling, bias=False)]
        negative = [Part(a.clamp(min=0), falling), Part(a.clamp(max=0), rising, bias=False)]
        return [(alpha, positive)] if alpha == 1 else [(alpha, positive), (1 - alpha, negative)]

    return parts


def boosted(gamma: float) -> Parts:
    """Contributions of the output's own sign count 1 + γ times."""

    def more(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda weight: weight + gamma * of(weight)

    def parts(op: Operation, a: Tensor) -> list[Group]:
        z, up, down = op.run(a), a.clamp(min=0), a.clamp(max=0)
        above = [Part(up, more(rising)), Part(down, more(falling), bias=False)]
        below = [Part(up, more(falling)), Part(down, more(rising), bias=False)]
        return [((z > 0).to(a.dtype), above), ((z < 0).to(a.dtype), below)]

    return parts


def box(op: Operation, rows: Tensor) -> list[Group]:
    """x w - l w⁺ - h w⁻ for inputs between l and h, the rows of the black and of the white image."""
    x, *ends = rows.chunk(3)
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    return [(1.0, [Part(x, same, bias=False), Part(-low, rising, bias=False), Part(-high, falling, bias=False)])]


# ---------------------------------------------------------------------- other operations


def is_convolution(op: Operation) -> bool:
    return op.name.startswith("conv")


def add_up(op: Operation) -> Tensor:
    """In proportion to the summands; a batch norm's offset takes its part. (R that passed a norm would no longer vanish with z.)"""
    z: Tensor = op.run(*(carry(each, each) for each in op.inputs))
    return with_gradient_of(z, z / stable(z, TINY))


def hand_on(op: Operation) -> Tensor:
    """R passes unchanged."""
    output: Tensor = op.run()
    return with_gradient_of(output, op.inputs[0].expand_as(output))


def ungate(op: Operation) -> Tensor:
    """The larger operand takes all; the one that is stretched over it is a gate. Raises UsageError for equal sizes."""
    output: Tensor = op.run()
    gated = [each for each in op.inputs if each.shape == output.shape]
    if len(gated) != 1:
        where = f"a product of equals in {op.module or 'the model'}"
        raise UsageError(f"relevance propagation has no rule for {where}", INSTEAD)
    return with_gradient_of(output, gated[0])


SCORES: frozenset[ScoreKind] = frozenset({"logit", "margin"})
PASSING: dict[Kind, Rule] = (
    keep_gradient("route", "max")
    | dict.fromkeys(("shift", "scale", "rectifier", "activation"), hand_on)
    | {"sum": add_up, "norm": add_up, "product": ungate}
)
