"""Layer-wise relevance propagation: the logit, divided layer by layer in proportion to contributions."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._attn_lrp_rules import make_attn_lrp_rules
from xplain.methods._lrp_rules import (
    ALTERNATIVES,
    OTHER_RULES,
    RULES_WITHOUT_BIAS,
    SCORES,
    TINY,
    LinearRule,
    alpha_beta_rule,
    basic_rule,
    box_rule,
    divide_relevance,
    gamma_rule,
    propagate_relevance,
    start_relevance,
)
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rules

LrpRule = Literal[
    "zero", "epsilon", "gamma", "z-plus", "alpha-beta", "epsilon-gamma-box", "epsilon-plus", "attn-lrp", "cp-lrp"
]
BiasRule = Literal["keep", "drop"]
MAX_GROWTH = 1e3
GROWTH = f"the relevance without biases has more than {MAX_GROWTH:g} times the magnitude of the score; use bias=keep"


@method(
    "lrp",
    violates=frozenset({"sensitivity-a"}),
    paper=Paper(
        "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation",
        "Sebastian Bach, Alexander Binder, Grégoire Montavon, Frederick Klauschen, Klaus-Robert Müller, Wojciech Samek",
        2015,
        "PLoS ONE",
        journal=True,
    ),
    deviations="Batch norms are folded into the convolution before them; other batch norms (DenseNet) are layers with the rule LRP-0, "
    "where zennit passes relevance on and it grows without bound. Negative inputs are treated as in zennit. LRP-0 adds 1e-9 to its "
    "denominators.",
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
    bias: BiasRule = "keep",
) -> Attribution:
    """Redistribute the logit backward through the layers in proportion to the contribution of each input.

    A layer z_k = Σ_j a_j w_jk + b_k gives its inputs R_j = Σ_k a_j ρ(w_jk) R_k / (z_k^ρ + ε sign z_k^ρ), sign 0 = 1.
    Biases take their part and keep it, so Σ R is the logit minus the relevance of the biases.
    Sums, means, residual additions and batch norms that could not be folded: LRP-0. Activations, constant scales and shifts
    (the normalization): R passes unchanged. Max-pooling: to the maximum. Gates (squeeze-excite) and divisors: to the gated input.
    Layer norms, RMS norms: LRP-0, with a constant scale. Products of equal shapes, and of matrices: half to each factor.
    Softmax A of S: R_S = S ⊙ (R_A - A Σ R_A), so that Σ R is not kept.
    Starts with R = z ⊙ ∂f/∂z at the logits z. Defined for logit and margin.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    rule: ``zero``: ρ(w) = w, ε = 0; ``epsilon``: ρ(w) = w, ε > 0; ``gamma``: ρ(w) = w + γ w⁺ for a_j, z_k >= 0, otherwise
    the same with signs reversed; ``z-plus``: positive contributions a w only; ``alpha-beta``: α times the positive minus
    α - 1 times the negative contributions; ``epsilon-plus``: z-plus for convolutions, epsilon for linear layers;
    ``epsilon-gamma-box``: gamma for convolutions, epsilon for linear layers, and for the first layer
    R_j = Σ_k (x_j w - l_j w⁺ - h_j w⁻) R_k / Σ_j (...), where the pixels 0 and 1 become l and h;
    ``attn-lrp``: gamma with γ for convolutions and γ / 5 for linear layers, ε = 0; all added constants take their part, and
    R = (x - mean) ⊙ G with a modified gradient G; ``cp-lrp``: the same, with attention weights as constants.
    epsilon: ε of the rules with it.
    gamma: γ of the rules with it.
    alpha: α of alpha-beta; β is α - 1.
    bias: ``keep``: biases take their part; ``drop``: the denominators are without biases, and Σ R is kept in linear layers.
    Raises UsageError for other scores and for operations without a rule.
    """
    keep_bias = bias == "keep"
    if rule in ("attn-lrp", "cp-lrp"):
        rules = make_attn_lrp_rules(rule, gamma, keep_bias=keep_bias)
        result = propagate(oracle, x, y, rules)
        values = (x - oracle.mean_color(x).to(x.dtype)) * result.gradients[:, 0]
        return _make_attribution(values, result.scores, keep_bias=keep_bias)

    def linear_rule(op: Operation) -> Tensor:
        weight_rule = _choose_rule(rule, op, gamma, alpha)
        return divide_relevance(op, weight_rule, TINY if rule == "zero" else epsilon, keep_bias=keep_bias)

    table, is_odd = OTHER_RULES | {"linear": linear_rule}, rule in ("zero", "epsilon")
    if not keep_bias:
        table |= RULES_WITHOUT_BIAS
    rules = Rules("lrp", table, ALTERNATIVES, SCORES, start_relevance, is_odd)
    result = propagate_relevance(oracle, x, y, rules, with_box=rule == "epsilon-gamma-box")
    return _make_attribution(result.gradients[:, 0], result.scores, keep_bias=keep_bias)


def _make_attribution(values: Tensor, scores: Tensor, *, keep_bias: bool) -> Attribution:
    """Return the attribution; without biases in the denominators, relevance that grew is flagged."""
    if keep_bias:
        return Attribution(values)
    magnitude = values.abs().sum(dim=(1, 2, 3))
    has_grown = ~(magnitude <= MAX_GROWTH * scores.abs())
    return Attribution(values, flags={GROWTH: has_grown})


def _choose_rule(rule: str, op: Operation, gamma: float, alpha: float) -> LinearRule:
    """Return the rule of a convolution or linear layer."""
    is_convolution = op.name.startswith("conv")
    match rule:
        case "zero" | "epsilon":
            return basic_rule
        case "gamma":
            return gamma_rule(gamma)
        case "z-plus":
            return alpha_beta_rule(1.0)
        case "alpha-beta":
            return alpha_beta_rule(alpha)
        case "epsilon-plus":
            return alpha_beta_rule(1.0) if is_convolution else basic_rule
        case "epsilon-gamma-box":
            if op.has_all_rows:  # the black and the white image end at the first layer
                return box_rule
            return gamma_rule(gamma) if is_convolution else basic_rule
    raise ValueError(rule)
