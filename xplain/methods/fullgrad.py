"""FullGrad: the contributions of the input and of every bias to the score, rescaled and summed as one map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._channel_axis import find_channel_axis, follow_channels
from xplain.methods.uniform_fullgrad import Zero, make_zero
from xplain.oracle import Oracle
from xplain.oracle.operations import Kind, Operation, norm_epsilon
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rule, Rules, derivative, keep_gradient

Rescale = Literal["layer", "channel"]
ALTERNATIVES = "use uniform-fullgrad or integrated-gradients"


@method(
    "fullgrad",
    violates=frozenset({"sensitivity-a"}),
    paper=Paper(
        "Full-gradient representation for neural network visualization",
        "Suraj Srinivas, François Fleuret",
        2019,
        "NeurIPS",
        "1905.00780",
    ),
    version=2,
    deviations="A batch norm that is folded into its convolution forms one term with it. Constant layers are rescaled to zero, "
    "without the 1e-6 of the official code.",
)
def fullgrad(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rescale: Rescale = "layer",
    baseline: Zero = "mean",
    align_corners: bool = True,
) -> Attribution:
    """Sum the rescaled contributions of the input and of every bias to the score.

    φ = Σ_c Ψ((x - r) ⊙ ∇f)_c + Σ_l Σ_c Ψ(b_l ⊙ ∂f/∂z_l)_c, for every operation l with output z_l and intercept
    b_l = z_l - J_l a_l: biases, offsets of batch norms, added constants, class tokens, the paper's implicit biases z - z'(a) a of
    activations other than ReLU, z - J a of layer norms and softmaxes, and minus the product for products of activations.
    Ψ: absolute value, scaled to [0, 1] and upsampled to the image. Terms without height and width, such as those of tokens, are
    not part of the map. ``total`` in details is the sum of all terms before Ψ, those included: it equals the score.
    Returns (B, 1, H, W) with values >= 0, not in units of the score. Defined for scores that are linear between kinks: logit and margin.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    rescale: scale by the range of each image's layer (``layer``, the official code) or channel (``channel``, the formula).
    baseline: r, the zero point of the input; ``mean`` is the zero of the normalized input. ``black`` and images count r - mean as a
    bias of the normalization.
    align_corners: upsample with aligned corners, as the official code does; if false, with half-pixel centers.
    Raises UsageError for other scores and for operations whose intercept is unknown.
    """
    size = (x.shape[-2], x.shape[-1])
    rescale_term = partial(_rescale_term, rescale=rescale, size=size, align_corners=align_corners)
    table = _make_table(rescale_term, baseline)
    rules = Rules("fullgrad", table, ALTERNATIVES, frozenset({"logit", "margin"}), rows="any")
    result = propagate(oracle, x, y, rules)
    zero, gradient = make_zero(baseline, x, oracle), result.gradients[:, 0]
    input_term = (x - zero).detach() * gradient
    total = input_term.double().sum(dim=(1, 2, 3)) + result.sums.get("total", torch.zeros_like(y, dtype=torch.float64))
    values = rescale_term(input_term) + result.sums.get("map", 0)
    if isinstance(baseline, Tensor):
        shift_term = (zero - oracle.mean_color(x).to(x.dtype)) * gradient
        total = total + shift_term.double().sum(dim=(1, 2, 3))
        values = values + rescale_term(shift_term)
    return Attribution(values, details={"total": total})


def _make_table(rescale_term: Callable[[Tensor], Tensor], baseline: Zero | Tensor) -> dict[Kind, Rule]:
    """Return rules that keep the gradients and add the term of each intercept to the sums.

    baseline: only ``black`` adds the term of the normalization.
    """

    def collect(intercept: Callable[[Operation], Tensor]) -> Rule:
        return lambda op: _collect_term(op, intercept(op), rescale_term)

    def collect_shift(op: Operation) -> Tensor:
        is_normalization = not op.module  # the classifier's own, outside its modules
        if is_normalization and (isinstance(baseline, Tensor) or baseline == "mean"):
            return op.run()
        return _collect_term(op, _affine_intercept(op), rescale_term)

    def route(op: Operation) -> Any:
        is_joined = op.name in ("cat", "concat", "stack") and op.constants  # class tokens and registers
        return _collect_term(op, _affine_intercept(op), rescale_term) if is_joined else op.run()

    table: dict[Kind, Rule] = keep_gradient("sum", "scale", "max", "length") | {
        "route": route,
        "shift": collect_shift,
        "linear": collect(_affine_intercept),
        "norm": collect(_affine_intercept),
        "rectifier": collect(_activation_intercept),
        "activation": collect(_activation_intercept),
        "power": collect(_activation_intercept),
        "product": collect(lambda op: -op.run().detach()),
        "bilinear": collect(lambda op: -op.run().detach()),
        "division": collect(lambda op: op.run().detach()),
        "layer-norm": collect(_layer_norm_intercept),
        "softmax": collect(_softmax_intercept),
    }
    return {kind: follow_channels(rule) for kind, rule in table.items()}


def _affine_intercept(op: Operation) -> Tensor:
    """Return the value of an affine operation at zero, of one row where all rows have the same."""
    has_all_rows = op.kind in ("shift", "route")
    zeros = [torch.zeros_like(source if has_all_rows else source[:1]) for source in op.inputs]
    value: Tensor = op.run(*zeros)
    return value.detach()


def _activation_intercept(op: Operation) -> Tensor:
    """Return the intercept z - z'(a) a of the linearized activation, which is zero for ReLU."""
    source = op.inputs[0].detach()
    return op.run(source) - derivative(op, source) * source


def _layer_norm_intercept(op: Operation) -> Tensor:
    """Return the intercept of a layer norm or RMS norm: its value minus γ c r · eps r², where r is the factor of c."""
    source = op.inputs[0].detach()
    shape = op.argument(1, "normalized_shape", ())
    axes = tuple(range(-len(shape), 0))
    centered = source - source.mean(dim=axes, keepdim=True) if op.name == "layer_norm" else source
    eps = norm_epsilon(op)
    factor = (centered.square().mean(dim=axes, keepdim=True) + eps).rsqrt()
    linear_part = centered * factor * (eps * factor.square())
    weight = op.argument(2, "weight", None)
    value: Tensor = op.run().detach()
    return value - (linear_part if weight is None else linear_part * weight)


def _softmax_intercept(op: Operation) -> Tensor:
    """Return the intercept A - A ⊙ (S - Σ A S) of a softmax A of S."""
    source = op.inputs[0].detach()
    weights: Tensor = op.run().detach()
    scores = torch.where(source.isfinite(), source, 0)
    mean = (weights * scores).sum(dim=op.argument(1, "dim", None), keepdim=True)
    return weights - weights * (scores - mean)


def _collect_term(op: Operation, intercept: Tensor, rescale_term: Callable[[Tensor], Tensor]) -> Tensor:
    """Run the operation; its backward pass adds the term of its intercept to the sums."""
    output: Tensor = op.run()
    channel_axis = find_channel_axis(op)
    if op.kind == "shift":  # a mask of an attention, which excludes entries
        intercept = torch.where(intercept.isinf(), 0, intercept)

    def collect(gradient: Tensor) -> None:
        term = intercept * gradient
        op.add_to_sum("total", _sum_per_image(op, term))
        if term.ndim == 4 and channel_axis is not None:
            op.add_to_sum("map", rescale_term(term.movedim(channel_axis, 1)))

    has_bias = op.kind != "linear" or len(op.constants) > 1
    if op.name != "relu" and has_bias:
        output.register_hook(collect)
    return output


def _sum_per_image(op: Operation, term: Tensor) -> Tensor:
    """Return the sums (rows,) of a term, whose rows may be divided into windows."""
    return term.double().movedim(op.row_axis, 0).reshape(op.rows, -1).sum(dim=1)


def _rescale_term(term: Tensor, rescale: Rescale, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Return Ψ of a term (B, K, h, w), summed over the channels and upsampled to (B, 1, H, W) by bilinear interpolation."""
    axes = (1, 2, 3) if rescale == "layer" else (2, 3)
    term = term.abs()
    low = term.amin(dim=axes, keepdim=True)
    high = term.amax(dim=axes, keepdim=True)
    scaled = torch.where(high > low, (term - low) / torch.where(high > low, high - low, 1), 0)
    summed = scaled.sum(dim=1, keepdim=True)
    return F.interpolate(summed, size=size, mode="bilinear", align_corners=align_corners)
