"""The rules of layer-wise relevance propagation, shared by lrp and deep-taylor.

Gradients are relevances here: each operation is replaced by an expression whose gradient divides the relevance of the output
between the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.types import ScoreKind
from xplain.oracle import Oracle
from xplain.oracle.operations import Kind, Operation, norm_epsilon
from xplain.oracle.propagation import PropagationResult, propagate
from xplain.oracle.propagation_rules import Rule, Rules, describe_module, keep_gradient, with_gradient_of

ALTERNATIVES = "use deeplift, uniform-fullgrad or integrated-gradients"
SCORES: frozenset[ScoreKind] = frozenset({"logit", "margin"})
TINY = 1e-9  # avoids division by zero in LRP-0 and in sums


def propagate_relevance(oracle: Oracle, x: Tensor, y: Tensor, rules: Rules, *, with_box: bool) -> PropagationResult:
    """Return the result whose gradients (B, S, C, H, W) are the relevances of the pixels, in the first stream.

    with_box: send a black and a white image through the model with x, up to the first layer, see ``box_rule``.
    """
    streams = (torch.zeros_like(x), torch.ones_like(x)) if with_box else ()
    return propagate(oracle, x, y, rules, *streams)


def multiply_gradient(source: Tensor, value: Tensor) -> Tensor:
    """Return ``value``; its backward pass multiplies the gradient by ``value``, which turns R / a into the relevance R."""
    return with_gradient_of(value, source * value.detach())


def start_relevance(logits: Tensor) -> Tensor:
    """Return the logits, with their gradients turned into relevances z ⊙ ∂f/∂z."""
    return multiply_gradient(logits, logits)


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    """Return z, moved away from zero by ``epsilon``."""
    z = z.detach()
    return z + torch.where(z < 0, -epsilon, epsilon)


class Contributions(NamedTuple):
    """The contributions a_j w_jk of input values by a part of the weights, and of the bias if ``bias`` is set."""

    values: Tensor
    weight_part: Callable[[Tensor], Tensor]
    bias: bool = True


class Group(NamedTuple):
    """Contributions that divide ``factor`` times the relevance of an output between them."""

    factor: Tensor | float
    contributions: list[Contributions]


LinearRule = Callable[[Operation, Tensor], list[Group]]  # the groups of an operation for its input values


def divide_relevance(op: Operation, rule: LinearRule, epsilon: float, *, keep_bias: bool = True) -> Tensor:
    """Run a linear operation and divide its relevance: Σ over groups of factor · contributions / (their sum + ε).

    keep_bias: the bias is one of the contributions, and its part is lost.
    """
    source = op.inputs[0]
    image = source.chunk(3)[0] if rule is box_rule else source
    output = op.run(image.detach())
    if not keep_bias:
        op = without_bias(op)
    total = torch.zeros_like(output)
    for factor, contributions in rule(op, source.detach()):
        z = sum_contributions(op, image, contributions)
        total = total + factor * z / stabilize(z, epsilon)
    return with_gradient_of(output, total)


def sum_contributions(op: Operation, source: Tensor, contributions: list[Contributions]) -> Tensor:
    """Return the sum of contributions, with their values as derivatives."""
    terms = []
    for values, weight_part, has_bias in contributions:
        weight, *biases = op.constants
        new_biases = [weight_part(bias) if has_bias else torch.zeros_like(bias) for bias in biases]
        constants = [weight_part(weight), *new_biases]
        terms.append(op.run(multiply_gradient(source, values), constants=constants))
    return torch.stack(terms).sum(dim=0) if len(terms) > 1 else terms[0]


def without_bias(op: Operation) -> Operation:
    """Return a linear operation with its bias set to zero."""
    weight, *biases = op.constants
    return replace(op, constants=[weight, *(torch.zeros_like(bias) for bias in biases)])


def whole(weight: Tensor) -> Tensor:
    """Return the weights."""
    return weight


def positive_part(weight: Tensor) -> Tensor:
    """Return the weights with negative values set to zero."""
    return weight.clamp(min=0)


def negative_part(weight: Tensor) -> Tensor:
    """Return the weights with positive values set to zero."""
    return weight.clamp(max=0)


def basic_rule(op: Operation, a: Tensor) -> list[Group]:
    """Return all contributions as one group: LRP-0 and LRP-epsilon."""
    return [Group(1.0, [Contributions(a, whole)])]


def alpha_beta_rule(alpha: float) -> LinearRule:
    """Return the rule of α times the positive minus (α - 1) times the negative contributions; a bias goes by its sign."""

    def rule(op: Operation, a: Tensor) -> list[Group]:
        up, down = a.clamp(min=0), a.clamp(max=0)
        positive = [Contributions(up, positive_part), Contributions(down, negative_part, bias=False)]
        if alpha == 1:
            return [Group(alpha, positive)]
        negative = [Contributions(up, negative_part), Contributions(down, positive_part, bias=False)]
        return [Group(alpha, positive), Group(1 - alpha, negative)]

    return rule


def gamma_rule(gamma: float) -> LinearRule:
    """Return the rule that counts contributions with the sign of the output 1 + γ times."""

    def raise_part(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda weight: weight + gamma * part(weight)

    def rule(op: Operation, a: Tensor) -> list[Group]:
        z, up, down = op.run(a), a.clamp(min=0), a.clamp(max=0)
        above = [
            Contributions(up, raise_part(positive_part)),
            Contributions(down, raise_part(negative_part), bias=False),
        ]
        below = [
            Contributions(up, raise_part(negative_part)),
            Contributions(down, raise_part(positive_part), bias=False),
        ]
        return [Group((z > 0).to(a.dtype), above), Group((z < 0).to(a.dtype), below)]

    return rule


def box_rule(op: Operation, rows: Tensor) -> list[Group]:
    """Return x w - l w⁺ - h w⁻ (z^B) for inputs between l and h, the values of the black and of the white image."""
    x, black, white = rows.chunk(3)
    low, high = torch.minimum(black, white), torch.maximum(black, white)
    contributions = [
        Contributions(x, whole, bias=False),
        Contributions(-low, positive_part, bias=False),
        Contributions(-high, negative_part, bias=False),
    ]
    return [Group(1.0, contributions)]


def sum_rule(op: Operation) -> Tensor:
    """Divide R in proportion to the summands; the offset of a batch norm takes its part.

    If batch norms passed R on unchanged, R would no longer vanish with z.
    """
    z: Tensor = op.run(*(multiply_gradient(summand, summand) for summand in op.inputs))
    return with_gradient_of(z, z / stabilize(z, TINY))


def pass_rule(op: Operation) -> Tensor:
    """Propagate the relevance R unchanged."""
    output: Tensor = op.run()
    return with_gradient_of(output, op.inputs[0].expand_as(output))


def product_rule(op: Operation) -> Tensor:
    """Give R to the factor that has the shape of the product, and half of it to each factor if both have.

    A factor that is broadcast is a gate. Raises UsageError if both are broadcast.
    """
    output: Tensor = op.run()
    return with_gradient_of(output, mean_of_factors(op, output))


def mean_of_factors(op: Operation, output: Tensor) -> Tensor:
    """Return the mean of the factors that have the shape of the product. Raises UsageError if none has."""
    gated = [factor for factor in op.inputs if factor.shape == output.shape]
    if not gated:
        where = f"a product of broadcast factors in {describe_module(op.module)}"
        raise UsageError(f"relevance propagation has no rule for {where}", ALTERNATIVES)
    return torch.stack(gated).mean(dim=0) if len(gated) > 1 else gated[0]


def bilinear_rule(op: Operation) -> Tensor:
    """Give half of R to each factor, in proportion to its contributions to a product of matrices."""
    first, second = op.inputs
    output: Tensor = op.run()
    z = op.run(multiply_gradient(first, first), second.detach())
    z = z + op.run(first.detach(), multiply_gradient(second, second))
    return with_gradient_of(output, z / (2 * stabilize(output, TINY)))


def quotient_rule(op: Operation) -> Tensor:
    """Give R to the dividend; the divisor is a gate."""
    output: Tensor = op.run()
    return with_gradient_of(output, op.inputs[0].expand_as(output))


def normalize_with_fixed_scale(op: Operation, source: Tensor, *, keep_bias: bool = True) -> Tensor:
    """Return a layer norm or RMS norm as a linear function: the scale of the operation's own input is a constant."""
    axes = tuple(range(-len(op.argument(1, "normalized_shape", ())), 0))
    weight, bias = op.argument(2, "weight", None), None
    deviation, own = source, op.inputs[0].detach()
    if op.name == "layer_norm":
        bias = op.argument(3, "bias", None)
        deviation, own = (x - x.mean(dim=axes, keepdim=True) for x in (source, own))
    scale = (own.square().mean(dim=axes, keepdim=True) + norm_epsilon(op)).rsqrt()
    output = deviation * scale
    if weight is not None:
        output = output * weight
    return output + bias if keep_bias and bias is not None else output


def layer_norm_rule(*, keep_bias: bool = True) -> Rule:
    """Return LRP-0 for a layer norm whose scale is a constant."""

    def rule(op: Operation) -> Tensor:
        source = multiply_gradient(op.inputs[0], op.inputs[0])
        z = normalize_with_fixed_scale(op, source, keep_bias=keep_bias)
        return with_gradient_of(op.run(), z / stabilize(z, TINY))

    return rule


def softmax_rule(op: Operation) -> Tensor:
    """Propagate R_S = S ⊙ (R_A - A Σ R_A), the first-order Taylor expansion at S; entries of -∞ get nothing."""
    source, output = op.inputs[0], op.run()
    scores = multiply_gradient(source, torch.where(source.isfinite(), source, 0))
    total = (output.detach() * scores).sum(dim=op.argument(1, "dim", None), keepdim=True)
    return with_gradient_of(output, (scores - total).to(output.dtype))


NORMALIZATION_RULES: dict[Kind, Rule] = {
    "bilinear": bilinear_rule,
    "division": quotient_rule,
    "power": pass_rule,
    "length": sum_rule,
    "layer-norm": layer_norm_rule(),
    "softmax": softmax_rule,
}
OTHER_RULES: dict[Kind, Rule] = (
    keep_gradient("route", "max")
    | dict.fromkeys(("shift", "scale", "rectifier", "activation"), pass_rule)
    | {"sum": sum_rule, "norm": sum_rule, "product": product_rule}
    | NORMALIZATION_RULES
)
RULES_WITHOUT_BIAS: dict[Kind, Rule] = {"norm": pass_rule, "layer-norm": layer_norm_rule(keep_bias=False)}
