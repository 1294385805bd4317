"""The RevealCancel rule of DeepLIFT, in which the rows of a tensor are an image x, its baseline x' and a third point x' + Δx⁺.

A rule is right if the gradient of the image's row is Δy⁺ m⁺ + Δy⁻ m⁻ and that of the third row its first term.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.methods._rescale_rules import divide_change, mean_of_ends, mix_maxima
from xplain.oracle.operations import Kind, Operation
from xplain.oracle.propagation_rules import Rule, derivative, keep_gradient, with_gradient_of


def _cancel_affine(op: Operation) -> Tensor:
    """Pass the parts on through an elementwise scale or shift; a negative scale swaps them."""
    rows = op.inputs[0]
    is_decreasing = op.run(torch.ones_like(rows)) < op.run(torch.zeros_like(rows))
    return torch.where(is_decreasing, op.run(_swap_parts(rows)), op.run(rows))


def _cancel_sum(op: Operation) -> Tensor:
    """Pass the parts on; those of a subtrahend are swapped."""
    if op.name == "sub":
        minuend, subtrahend = op.inputs
        return op.run(minuend, _swap_parts(subtrahend))
    return op.run()


def _cancel_linear(op: Operation) -> Tensor:
    """Split Δy into the sums of the positive and of the negative contributions w_i Δx_i."""
    image, base, _ = op.inputs[0].chunk(3)
    change = image - base.detach()
    up_share = ((change > 0).to(change.dtype) + (change == 0).to(change.dtype) / 2).detach()
    up, down = change * up_share, change * (1 - up_share)
    weight, *biases = op.constants
    no_biases = [torch.zeros_like(bias) for bias in biases]
    positive_weights = [weight.clamp(min=0), *no_biases]
    negative_weights = [weight.clamp(max=0), *no_biases]
    positive = op.run(up, constants=positive_weights) + op.run(down, constants=negative_weights)
    negative = op.run(up, constants=negative_weights) + op.run(down, constants=positive_weights)
    return _join_rows(op.run(image.detach()), op.run(base.detach()), positive, negative)


def _cancel_elementwise(op: Operation) -> Tensor:
    """Split Δy into the Shapley values of the two parts in an elementwise function."""
    image, base, above = op.inputs[0].chunk(3)
    x, start, up = image.detach(), base.detach(), above.detach()
    down = x + start - up  # the baseline plus the negative part
    y_x, y_start, y_up, y_down = op.run(x), op.run(start), op.run(up), op.run(down)
    slope_start, slope_up, slope_down = derivative(op, start), derivative(op, up), derivative(op, down)
    magnitude = torch.stack([x, start, up]).abs().amax(dim=0)
    rise = ((y_up - y_start) + (y_x - y_down)) / 2
    fall = ((y_down - y_start) + (y_x - y_up)) / 2
    up_multiplier = divide_change(rise, up - start, magnitude, (slope_start + slope_down) / 2)
    down_multiplier = divide_change(fall, x - up, magnitude, (slope_start + slope_up) / 2)
    positive = with_gradient_of(rise, (above - start) * up_multiplier)
    return _join_rows(y_x, y_start, positive, (image - above) * down_multiplier)


def _cancel_max(op: Operation) -> Tensor:
    """Divide both parts as ``rescale_max`` divides the difference."""
    output, mix = mix_maxima(op, 3)
    image_output, base_output, _ = output.chunk(3)
    image, base, above = mix(op.inputs[0]).chunk(3)
    return _join_rows(image_output, base_output, above - base.detach(), image - above)


def _cancel_product(op: Operation) -> Tensor:
    """Multiply the parts as ``rescale_product`` does; a negative mean swaps the parts that it scales."""

    def scale(rows: Tensor, factor: Tensor) -> Tensor:
        return torch.where(factor < 0, _swap_parts(rows) * factor, rows * factor)

    first, second = op.inputs
    image_output, base_output, _ = op.run().chunk(3)
    surrogate = scale(first, mean_of_ends(second, 3)) + scale(second, mean_of_ends(first, 3))
    image, base, above = surrogate.chunk(3)
    return _join_rows(image_output, base_output, above - base.detach(), image - above)


def _swap_parts(rows: Tensor) -> Tensor:
    """Return the rows x, x' and x' + Δx⁻."""
    image, base, above = rows.chunk(3)
    return torch.cat([image, base, image + base - above])


def _join_rows(image: Tensor, base: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the rows of an output, from its values at image and baseline and the parts of their difference."""
    return torch.cat([with_gradient_of(image, positive + negative), base.detach(), base.detach() + positive])


REVEAL_CANCEL_TABLE: dict[Kind, Rule] = keep_gradient("route") | {
    "sum": _cancel_sum,
    "shift": _cancel_affine,
    "scale": _cancel_affine,
    "norm": _cancel_affine,
    "linear": _cancel_linear,
    "rectifier": _cancel_elementwise,
    "activation": _cancel_elementwise,
    "max": _cancel_max,
    "product": _cancel_product,
}
