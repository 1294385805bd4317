"""The rules of DeepLIFT, in which the rows of a tensor are an image, its baseline and, for RevealCancel, a third point.

RESCALE_TABLE: the rows are x and x'. A rule is right if the gradient of the image's row is the multiplier.
REVEAL_CANCEL_TABLE: the rows are x, x' and x' + Δx⁺. A rule is right if the gradient of the image's row is Δy⁺ m⁺ + Δy⁻ m⁻ and
that of the third row its first term.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xplain.oracle.operations import Kind, Operation
from xplain.oracle.propagation import Rule, derivative, keep_gradient, with_gradient_of

ROUNDING_UNITS = 4  # differences below this number of rounding units are zero, and the derivative is the multiplier


def _rescale_elementwise(op: Operation) -> Tensor:
    """Multiply the gradients of both rows by m = Δy / Δx."""
    source, output = op.inputs[0], op.run()
    image, base = source.detach().chunk(2)
    image_output, base_output = output.detach().chunk(2)
    magnitude = torch.maximum(image.abs(), base.abs())
    multiplier = _divide(image_output - base_output, image - base, magnitude, derivative(op, image))
    return with_gradient_of(output, source * torch.cat([multiplier, multiplier]))


def _rescale_product(op: Operation) -> Tensor:
    """Divide Δ(ab) = mean(a) Δb + mean(b) Δa, with the means over image and baseline."""
    first, second = op.inputs
    surrogate = op.run(first, _mean_of_ends(second, 2)) + op.run(_mean_of_ends(first, 2), second)
    return with_gradient_of(op.run(), surrogate)


def _rescale_max(op: Operation) -> Tensor:
    """Divide between the maximum at the image and the maximum at the baseline."""
    output, mix = _mix_maxima(op, 2)
    return with_gradient_of(output, mix(op.inputs[0]))


def _divide(change: Tensor, difference: Tensor, magnitude: Tensor, at_zero: Tensor) -> Tensor:
    """Return change / difference, or ``at_zero`` if the difference is within the rounding of values of this magnitude."""
    limits = torch.finfo(difference.dtype)
    rounding = ROUNDING_UNITS * limits.eps * magnitude.abs() + limits.tiny
    is_zero = difference.abs() <= rounding
    return torch.where(is_zero, at_zero, change / torch.where(is_zero, 1, difference))


def _mean_of_ends(rows: Tensor, points: int) -> Tensor:
    """Return the mean of image and baseline, repeated for each of the ``points`` rows per image."""
    image, base = rows.detach().chunk(points)[:2]
    return ((image + base) / 2).repeat(points, *[1] * (rows.ndim - 1))


def _mix_maxima(op: Operation, points: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the maxima, and the function λ u + (1 - λ) v.

    u and v are the entries of a window that are the maximum at the image and at the baseline. max(u, v) = v + ReLU(u - v):
    with d = u - v at the image (>= 0) and d' at the baseline (<= 0), Rescale gives λ = d / (d - d'), which is in [0, 1],
    except for 0/0, where both shares are right.
    """
    source = op.inputs[0].detach()
    output, indices = op.run(source, return_indices=True)
    image_indices, base_indices = indices.chunk(points)[:2]
    u, v = image_indices.flatten(2), base_indices.flatten(2)

    def lead(values: Tensor) -> Tensor:
        return values.flatten(2).gather(2, u) - values.flatten(2).gather(2, v)

    image, base = source.chunk(points)[:2]
    image_lead = lead(image)
    gap = image_lead - lead(base)
    share = torch.where(gap > 0, image_lead / torch.where(gap > 0, gap, 1), 0.5).repeat(points, 1, 1)
    all_u, all_v = u.repeat(points, 1, 1), v.repeat(points, 1, 1)

    def mix(values: Tensor) -> Tensor:
        mixed = share * values.flatten(2).gather(2, all_u) + (1 - share) * values.flatten(2).gather(2, all_v)
        return mixed.view_as(output)

    return output, mix


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
    up_multiplier = _divide(rise, up - start, magnitude, (slope_start + slope_down) / 2)
    down_multiplier = _divide(fall, x - up, magnitude, (slope_start + slope_up) / 2)
    positive = with_gradient_of(rise, (above - start) * up_multiplier)
    return _join_rows(y_x, y_start, positive, (image - above) * down_multiplier)


def _cancel_max(op: Operation) -> Tensor:
    """Divide both parts as ``_rescale_max`` divides the difference."""
    output, mix = _mix_maxima(op, 3)
    image_output, base_output, _ = output.chunk(3)
    image, base, above = mix(op.inputs[0]).chunk(3)
    return _join_rows(image_output, base_output, above - base.detach(), image - above)


def _cancel_product(op: Operation) -> Tensor:
    """Multiply the parts as ``_rescale_product`` does; a negative mean swaps the parts that it scales."""

    def scale(rows: Tensor, factor: Tensor) -> Tensor:
        return torch.where(factor < 0, _swap_parts(rows) * factor, rows * factor)

    first, second = op.inputs
    image_output, base_output, _ = op.run().chunk(3)
    surrogate = scale(first, _mean_of_ends(second, 3)) + scale(second, _mean_of_ends(first, 3))
    image, base, above = surrogate.chunk(3)
    return _join_rows(image_output, base_output, above - base.detach(), image - above)


def _swap_parts(rows: Tensor) -> Tensor:
    """Return the rows x, x' and x' + Δx⁻."""
    image, base, above = rows.chunk(3)
    return torch.cat([image, base, image + base - above])


def _join_rows(image: Tensor, base: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the rows of an output, from its values at image and baseline and the parts of their difference."""
    return torch.cat([with_gradient_of(image, positive + negative), base.detach(), base.detach() + positive])


RESCALE_TABLE: dict[Kind, Rule] = keep_gradient("route", "sum", "shift", "scale", "linear", "norm") | {
    "rectifier": _rescale_elementwise,
    "activation": _rescale_elementwise,
    "max": _rescale_max,
    "product": _rescale_product,
}
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
