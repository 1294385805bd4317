"""AttnLRP and CP-LRP as modified gradients G, from which the relevance of every tensor a is a ⊙ G.

Linear operations keep their gradient, so that biases take their part (LRP-0), or follow the γ rule. Scales of normalizations and
divisors are constants, activations h(a) have the slope h(a) / a, and each factor of a product gets half of the gradient.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from xplain.methods._lrp_rules import (
    ALTERNATIVES,
    SCORES,
    TINY,
    mean_of_factors,
    negative_part,
    normalize_with_fixed_scale,
    positive_part,
    stabilize,
    without_bias,
)
from xplain.oracle.operations import Kind, Operation, find_tensors
from xplain.oracle.propagation_rules import Rule, Rules, derivative, keep_gradient, with_gradient_of

LINEAR_SHARE = 0.2  # γ of linear layers, as a share of the γ of convolutions
FIXED_WEIGHTS = "_xplain_fixed_weights"  # attribute of softmaxes that CP-LRP treats as constants
ZERO = 1e-30  # an activation's input below which its slope at zero is used


def make_attn_lrp_rules(variant: Literal["attn-lrp", "cp-lrp"], gamma: float, *, keep_bias: bool) -> Rules:
    """Return the rules of AttnLRP or CP-LRP.

    gamma: γ of convolutions; linear layers have γ / 5.
    keep_bias: biases and other constants take their part of the relevance.
    """

    def linear_rule(op: Operation) -> Tensor:
        if op.name.startswith("conv"):
            return _linear_rule(op, gamma, keep_bias=keep_bias)
        return _linear_rule(op, gamma * LINEAR_SHARE if op.name == "linear" else 0.0, keep_bias=keep_bias)

    def layer_norm_rule(op: Operation) -> Tensor:
        output: Tensor = op.run()
        linear = normalize_with_fixed_scale(op, op.inputs[0])
        if keep_bias:
            return with_gradient_of(output, linear)
        kept = normalize_with_fixed_scale(op, op.inputs[0], keep_bias=False)
        return with_gradient_of(output, kept * _ratio(output, kept))

    table: dict[Kind, Rule] = keep_gradient("route", "sum", "shift", "scale", "norm", "max", "length", "softmax") | {
        "linear": linear_rule,
        "layer-norm": layer_norm_rule,
        "rectifier": _identity_rule,
        "activation": _identity_rule,
        "power": _identity_rule,
        "product": _product_rule,
        "division": _quotient_rule,
        "bilinear": _bilinear_rule,
    }
    if not keep_bias:
        table |= dict.fromkeys(("shift", "norm"), _identity_rule)
    if variant == "cp-lrp":
        table |= {"route": _route_weights, "softmax": _fix_weights}
    return Rules("lrp", table, ALTERNATIVES, SCORES)


def _linear_rule(op: Operation, gamma: float, *, keep_bias: bool) -> Tensor:
    """Return the output; its gradient G_k gives G_j = Σ_k ρ(w_jk) (z_k / z_k^ρ) G_k.

    ρ raises the weights of the contributions that have the sign of z_k by 1 + γ, and z^ρ is z with these weights.
    """
    output: Tensor = op.run()
    if not keep_bias:
        op = without_bias(op)
    if gamma == 0:
        z = op.run()
        return output if keep_bias else with_gradient_of(output, z * _ratio(output, z))
    source = op.inputs[0]
    value = source.detach()
    z, up, down = op.run(value), value.clamp(min=0), value.clamp(max=0)
    is_up = (value >= 0).to(value.dtype)
    weight, *biases = op.constants
    no_biases = [torch.zeros_like(bias) for bias in biases]
    surrogate = torch.zeros_like(z)
    for same_sign, other_sign, is_side in (
        (positive_part, negative_part, z >= 0),
        (negative_part, positive_part, z < 0),
    ):
        raised = [weight + gamma * same_sign(weight)]
        lowered = [weight + gamma * other_sign(weight), *no_biases]
        raised_biases = [bias + gamma * same_sign(bias) for bias in biases]
        z_raised = op.run(up, constants=[*raised, *raised_biases]) + op.run(down, constants=lowered)
        linear = op.run(source * is_up, constants=[*raised, *no_biases])
        linear = linear + op.run(source * (1 - is_up), constants=lowered)
        surrogate = surrogate + torch.where(is_side, _ratio(output, z_raised), 0) * linear
    return with_gradient_of(output, surrogate)


def _ratio(output: Tensor, z: Tensor) -> Tensor:
    """Return output / z without gradient, 0 / 0 = 0."""
    return output.detach() / stabilize(z, ZERO)


def _identity_rule(op: Operation) -> Tensor:
    """Return the output; its gradient is multiplied by h(a) / a, so that h(a) and a have the same relevance.

    At a = 0 it is the derivative, or the quotient is limited where h(0) is not zero.
    """
    source, output = op.inputs[0], op.run()
    at = source.detach().expand_as(output)
    is_zero = at.abs() <= ZERO
    at_zero = torch.where(output == 0, derivative(op, at) if at.shape == source.shape else 1, output.detach() / TINY)
    slope = torch.where(is_zero, at_zero, output.detach() / torch.where(is_zero, 1, at))
    return with_gradient_of(output, source * slope)


def _product_rule(op: Operation) -> Tensor:
    """Keep the gradient of the factor with the shape of the product, or half of it for each factor; a gate is a constant."""
    output: Tensor = op.run()
    first, second = op.inputs
    mean_of_factors(op, output)
    if first.shape == second.shape:
        return with_gradient_of(output, _halve(op))
    gated = [factor if factor.shape == output.shape else factor.detach() for factor in op.inputs]
    return with_gradient_of(output, op.run(*gated))


def _quotient_rule(op: Operation) -> Tensor:
    """Keep the gradient of the dividend; the divisor is a constant."""
    dividend, divisor = op.inputs
    return with_gradient_of(op.run(), op.run(dividend, divisor.detach()))


def _bilinear_rule(op: Operation) -> Tensor:
    """Return the product; each factor gets half of its gradient, or the values all of it if the weights are constants."""
    if any(FIXED_WEIGHTS in vars(factor) for factor in op.inputs):
        output: Tensor = op.run()
        return output
    return with_gradient_of(op.run(), _halve(op))


def _halve(op: Operation) -> Tensor:
    """Return the product with half of the gradient for each factor."""
    first, second = op.inputs
    both: Tensor = op.run(first, second.detach()) + op.run(first.detach(), second)
    return both / 2


def _fix_weights(op: Operation) -> Tensor:
    """Return the softmax without a gradient."""
    output: Tensor = with_gradient_of(op.run(), op.inputs[0] * 0)
    vars(output)[FIXED_WEIGHTS] = True
    return output


def _route_weights(op: Operation) -> Any:
    """Return the output, which is a part of a softmax that is a constant if the input is."""
    output = op.run()
    if all(FIXED_WEIGHTS in vars(tensor) for tensor in op.inputs):
        for tensor in find_tensors(output):
            vars(tensor)[FIXED_WEIGHTS] = True
    return output
