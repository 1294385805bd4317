"""Deep Taylor decomposition: relevance by first-order expansions at root points of every neuron."""

from __future__ import annotations

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._lrp_rules import (
    NORMALIZATION_RULES,
    OTHER_RULES,
    SCORES,
    TINY,
    Contributions,
    Group,
    box_rule,
    divide_relevance,
    multiply_gradient,
    negative_part,
    positive_part,
    propagate_relevance,
    stabilize,
    start_relevance,
)
from xplain.oracle import Oracle
from xplain.oracle.operations import Kind, Operation
from xplain.oracle.propagation_rules import Rule, Rules, with_gradient_of

ALTERNATIVES = "use lrp, deeplift or integrated-gradients"


def _positive_rule(op: Operation, a: Tensor) -> list[Group]:
    """Return the positive contributions (z⁺); biases take no relevance."""
    contributions = [
        Contributions(a.clamp(min=0), positive_part, bias=False),
        Contributions(a.clamp(max=0), negative_part, bias=False),
    ]
    return [Group(1.0, contributions)]


def _linear_rule(op: Operation) -> Tensor:
    """Divide R by z^B in the first layer and by z⁺ in the others."""
    return divide_relevance(op, box_rule if op.has_all_rows else _positive_rule, TINY)


def _sum_rule(op: Operation) -> Tensor:
    """Divide R in proportion to the magnitudes of the summands, which after ReLUs are the summands."""
    magnitudes = [summand.abs() for summand in op.inputs]
    if op.name == "sub":
        magnitudes[1] = -magnitudes[1]
    pairs = zip(op.inputs, magnitudes, strict=True)
    z = op.run(*(multiply_gradient(summand, magnitude) for summand, magnitude in pairs))
    return with_gradient_of(op.run(), z / stabilize(z, TINY))


UNDEFINED: tuple[Kind, ...] = ("norm", "activation", "product", *NORMALIZATION_RULES)
TABLE: dict[Kind, Rule] = {kind: rule for kind, rule in OTHER_RULES.items() if kind not in UNDEFINED}
RULES = Rules(
    "deep-taylor",
    TABLE | {"linear": _linear_rule, "sum": _sum_rule},
    ALTERNATIVES,
    SCORES,
    start_relevance,
    is_odd=False,
)


@method(
    "deep-taylor",
    violates=frozenset({"sensitivity-a"}),
    paper=Paper(
        "Explaining nonlinear classification decisions with deep Taylor decomposition",
        "Grégoire Montavon, Sebastian Lapuschkin, Alexander Binder, Wojciech Samek, Klaus-Robert Müller",
        2017,
        "Pattern Recognition",
        "1512.02479",
        journal=True,
    ),
    deviations="Positive biases, which the paper excludes, take no relevance. A negative score gives a negative map.",
)
def deep_taylor(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Redistribute the score with first-order Taylor expansions at a root point of every neuron.

    Hidden layers (z⁺ rule): R_j = Σ_k (a_j w_jk)⁺ R_k / Σ_j (a_j w_jk)⁺. First layer (z^B rule), whose pixels in [0, 1] become l to h:
    R_j = Σ_k (x_j w - l_j w⁺ - h_j w⁻) R_k / Σ_j (x_j w - l_j w⁺ - h_j w⁻). ReLUs pass R unchanged; max-pooling gives it to
    the maximum; sums, means and residual additions divide it in proportion to the magnitudes of the summands.
    Starts with R = f(x). Σ R = f(x), except for neurons without positive contributions, whose relevance is lost; R has the
    sign of f(x). Defined for logit and margin on networks of convolutions and ReLUs.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    Raises UsageError for other scores, other activations, products, and batch norms that do not follow a convolution.
    """
    return Attribution(propagate_relevance(oracle, x, y, RULES, with_box=True).gradients[:, 0])
