"""The Rescale rule of DeepLIFT, for elementwise functions and for products, maxima, norms and softmaxes.

The rows of a tensor are an image and its baseline x'. A rule is right if the gradient of the image's row is the multiplier. The
rules of operations of several inputs follow from steps with exact multipliers, so that the contributions sum to the difference of
the output: Δ(ab) = b̄ Δa + ā Δb, with the means b̄ and ā of both ends.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xplain.oracle.operations import Kind, Operation, norm_epsilon
from xplain.oracle.propagation_rules import Rule, derivative, keep_gradient, with_gradient_of

MAX_RATIO = 1e3  # of the sums of exponentials at image and baseline
ROUNDING_UNITS = 4  # differences below this number of rounding units are zero, and the derivative is the multiplier


def rescale_elementwise(op: Operation) -> Tensor:
    """Multiply the gradients of both rows by m = Δy / Δx."""
    source, output = op.inputs[0], op.run()
    image, base = _ends(source, op.row_axis)
    image_output, base_output = _ends(output, op.row_axis)
    magnitude = torch.maximum(image.abs(), base.abs())
    multiplier = divide_change(image_output - base_output, image - base, magnitude, derivative(op, image))
    return with_gradient_of(output, source * torch.cat([multiplier, multiplier], dim=op.row_axis))


def rescale_product(op: Operation) -> Tensor:
    """Divide Δ(ab) = mean(a) Δb + mean(b) Δa, with the means over image and baseline."""
    first, second = op.inputs
    surrogate = op.run(first, mean_of_ends(second, 2, op.row_axis))
    surrogate = surrogate + op.run(mean_of_ends(first, 2, op.row_axis), second)
    return with_gradient_of(op.run(), surrogate)


def rescale_quotient(op: Operation) -> Tensor:
    """Divide Δ(a / b) = mean(1 / b) Δa - mean(a) Δb / (b b')."""
    first, second = op.inputs
    image, base = _ends(second, op.row_axis)
    inverse = _repeat((1 / image + 1 / base) / 2, op.row_axis)
    slope = -1 / _repeat(image * base, op.row_axis)
    surrogate = first * inverse + mean_of_ends(first, 2, op.row_axis) * (second * slope)
    return with_gradient_of(op.run(), surrogate)


def rescale_max(op: Operation) -> Tensor:
    """Divide between the maximum at the image and the maximum at the baseline."""
    output, mix = mix_maxima(op, 2)
    return with_gradient_of(output, mix(op.inputs[0]))


def rescale_length(op: Operation) -> Tensor:
    """Multiply by m_i = 2 mean(x_i) / (r + r') for the Euclidean norm r."""
    source, output = op.inputs[0], op.run()
    dim = op.argument(2, "dim", None)
    with torch.no_grad():
        length = torch.linalg.vector_norm(source, dim=dim, keepdim=True)
        total = 2 * mean_of_ends(length, 2, op.row_axis)
        multiplier = 2 * mean_of_ends(source, 2, op.row_axis) / torch.where(total > 0, total, 1)
    return with_gradient_of(output, (source * multiplier).sum(dim=dim).view_as(output))


def rescale_layer_norm(op: Operation) -> Tensor:
    """Divide Δ(γ c r) between the deviation c = x - mean(x), or c = x of an RMS norm, and r = (mean(c²) + eps)^-½.

    Δr = -(r r')² / (r + r') Δmean(c²), and Δmean(c²) = 2 mean(c̄ Δc).
    """
    source, output = op.inputs[0], op.run()
    shape = tuple(op.argument(1, "normalized_shape", ()))
    weight, eps = op.argument(2, "weight", None), norm_epsilon(op)
    axes = tuple(range(-len(shape), 0))
    deviation = source
    if op.name == "layer_norm":
        deviation = source - source.mean(dim=axes, keepdim=True)
    with torch.no_grad():
        inverse = (deviation.square().mean(dim=axes, keepdim=True) + eps).rsqrt()
        image, base = _ends(inverse, op.row_axis)
        slope = _repeat(-((image * base) ** 2) / (image + base), op.row_axis)
        center, scale = (mean_of_ends(rows, 2, op.row_axis) for rows in (deviation, inverse))
    change_of_inverse = slope * 2 * (center * deviation).mean(dim=axes, keepdim=True)
    surrogate = scale * deviation + center * change_of_inverse
    return with_gradient_of(output, surrogate if weight is None else surrogate * weight)


def rescale_softmax(op: Operation) -> Tensor:
    """Divide Δ(e / s) for e = exp(S - κ) and its sum s, with the same κ at image and baseline.

    m_S = (Δe / ΔS) m_e with m_e = mean(1 / s) m - Σ mean(e) m / (s s'). Entries of -∞ at both ends get nothing.
    If s and s' differ by a factor of MAX_RATIO or more, a shift of all S, which changes nothing, would dominate these multipliers.
    The steps S - log s and exp then give m_S = l (m - Σ l m / Σ l), with l = ΔA / Δ log A for the softmax A: also complete.
    Computed in float64.
    """
    source, output = op.inputs[0], op.run()
    dim = op.argument(1, "dim", None)
    with torch.no_grad():
        image, base = _ends(source.double(), op.row_axis)
        top = torch.maximum(image, base).amax(dim=dim, keepdim=True)
        image_sum, base_sum = ((end - top).exp().sum(dim=dim, keepdim=True) for end in (image, base))
        slope, mean = _secant_of_exp(image - top, base - top)
        inverse = (1 / image_sum + 1 / base_sum) / 2
        share = mean / (image_sum * base_sum)
        log_slope, _ = _secant_of_exp(image.log_softmax(dim=dim), base.log_softmax(dim=dim))
        log_share = log_slope / log_slope.sum(dim=dim, keepdim=True)
        is_shifted = torch.maximum(image_sum, base_sum) >= MAX_RATIO * torch.minimum(image_sum, base_sum)
        slope = torch.where(is_shifted, log_slope, slope)
        inverse = torch.where(is_shifted, 1, inverse)
        share = torch.where(is_shifted, log_share, share)
        slope, inverse, share = (_repeat(part, op.row_axis) for part in (slope, inverse, share))
    exponentials = torch.where(slope > 0, source, 0) * slope
    surrogate = inverse * exponentials - share * exponentials.sum(dim=dim, keepdim=True)
    return with_gradient_of(output, surrogate.to(output.dtype))


def divide_change(change: Tensor, difference: Tensor, magnitude: Tensor, at_zero: Tensor) -> Tensor:
    """Return change / difference, or ``at_zero`` if the difference is within the rounding of values of this magnitude."""
    limits = torch.finfo(difference.dtype)
    rounding = ROUNDING_UNITS * limits.eps * magnitude.abs() + limits.tiny
    is_zero = difference.abs() <= rounding
    return torch.where(is_zero, at_zero, change / torch.where(is_zero, 1, difference))


def mean_of_ends(rows: Tensor, points: int, axis: int = 0) -> Tensor:
    """Return the mean of image and baseline, repeated for each of the ``points`` rows per image."""
    image, base = rows.detach().chunk(points, dim=axis)[:2]
    return torch.cat([(image + base) / 2] * points, dim=axis)


def mix_maxima(op: Operation, points: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
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


def _secant_of_exp(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slope of exp between two numbers <= 0, its derivative if they are equal, and its mean; zero for two -∞."""
    exp_first, exp_second = first.exp(), second.exp()
    upper = torch.maximum(exp_first, exp_second)
    step = (first - second).abs()
    is_moved = step > 0
    slope = torch.where(is_moved, upper * -torch.expm1(-step) / torch.where(is_moved, step, 1), upper)
    return torch.where(upper > 0, slope, 0), (exp_first + exp_second) / 2


def _ends(rows: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the rows of the images and those of the baselines."""
    image, base = rows.detach().chunk(2, dim=axis)
    return image, base


def _repeat(values: Tensor, axis: int) -> Tensor:
    """Return values of the images, for the rows of the images and of the baselines."""
    return torch.cat([values, values], dim=axis)


RESCALE_TABLE: dict[Kind, Rule] = keep_gradient("route", "sum", "shift", "scale", "linear", "norm") | {
    "rectifier": rescale_elementwise,
    "activation": rescale_elementwise,
    "power": rescale_elementwise,
    "max": rescale_max,
    "product": rescale_product,
    "bilinear": rescale_product,
    "division": rescale_quotient,
    "length": rescale_length,
    "layer-norm": rescale_layer_norm,
    "softmax": rescale_softmax,
}
