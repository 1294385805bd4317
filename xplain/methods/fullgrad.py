"""FullGrad: the input's share and every bias's share of the score, rescaled and added up as one map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.uniform_fullgrad import Zero, make_zero
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import (
    Rules,
    derivative,
    keep_gradient,
    propagate,
)

Rescale = Literal["layer", "channel"]
INSTEAD = "uniform-fullgrad and integrated-gradients fit"


@method(
    "fullgrad",
    paper=Paper(
        "Full-gradient representation for neural network visualization",
        "Srinivas, Fleuret",
        2019,
        "NeurIPS",
        "1905.00780",
    ),
    deviations="A batch norm that is folded into its convolution gives one term with it. Constant layers are rescaled to zero without "
    "the official 1e-6. Bilinear up-sampling with half-pixel centres, where the official code aligns the corners.",
)
def fullgrad(
    oracle: Oracle, x: Tensor, y: Tensor, *, rescale: Rescale = "layer", baseline: Zero = "mean"
) -> Attribution:
    """The input's share and every bias's share of the score, rescaled and added up as one map.

    φ = Σ_c Ψ((x - r) ⊙ ∇f)_c + Σ_l Σ_c Ψ(b_l ⊙ ∂f/∂z_l)_c, for every operation l with output z_l and intercept
    b_l = z_l - J_l a_l: biases, batch norms' offsets, added constants, and the paper's implicit biases z - z'(a) a of
    activations other than ReLU and minus the product for products of activations. Ψ: absolute value, scaled to [0, 1] over
    a layer (rescale=layer, the official code) or each channel (channel, the formula) of an image, up-sampled to the image.
    baseline r: what counts as zero; ``mean`` is the zero of the normalised input, ``black`` counts -mean as a bias.
    Terms without height and width have no place in the map. ``total`` in details is the sum of all terms before Ψ, those too:
    the score, whatever the activations. x: (B, C, H, W) in [0, 1], y: (B,). Returns (B, 1, H, W), values from 0 up; not in the
    score's units. Defined for scores that are linear between kinks, logit and margin. Raises UsageError for other scores
    and for operations whose intercept is not known, such as layer norms and attention.
    """
    resize = _Resize(rescale, (x.shape[-2], x.shape[-1]))

    def shift(op: Operation) -> Any:
        """The classifier's own normalisation is no bias where the mean colour counts as zero."""
        return op.run() if baseline == "mean" and not op.module else _collect(op, _constant(op), resize)

    def of(intercept: Callable[[Operation], Tensor]) -> Callable[[Operation], Tensor]:
        return lambda op: _collect(op, intercept(op), resize)

    affine, curve = of(_constant), of(_curve)
    table = keep_gradient("route", "sum", "scale", "max") | {"shift": shift, "linear": affine, "norm": affine}
    table |= {"rectifier": curve, "activation": curve, "product": of(lambda op: -op.run().detach())}
    found = propagate(oracle, x, y, Rules("fullgrad", table, INSTEAD, frozenset({"logit", "margin"})))
    share = (x - make_zero(baseline, x, oracle)).detach() * found.gradients[:, 0]
    total = share.double().sum(dim=(1, 2, 3)) + found.sums.get("total", torch.zeros_like(y, dtype=torch.float64))
    return Attribution(resize(share) + found.sums.get("map", 0), details={"total": total})


def _constant(op: Operation) -> Tensor:
    """The intercept of an affine operation: its value at zero, of one row where rows do not differ."""
    source = op.inputs[0].detach()
    value: Tensor = op.run(torch.zeros_like(source if op.kind == "shift" else source[:1]))
    return value


def _curve(op: Operation) -> Tensor:
    """z - z'(a) a, zero for ReLU."""
    source = op.inputs[0].detach()
    return op.run(source) - derivative(op, source) * source


def _collect(op: Operation, intercept: Tensor, resize: _Resize) -> Tensor:
    """The operation itself; when the signal arrives, its intercept's share joins the sums."""
    output: Tensor = op.run()

    def collect(signal: Tensor) -> None:
        share = intercept * signal
        op.add_to_sum("total", share.double().flatten(1).sum(dim=1))
        if share.ndim == 4:
            op.add_to_sum("map", resize(share))

    if op.name != "relu" and (op.kind != "linear" or len(op.constants) > 1):  # without a bias there is nothing
        output.register_hook(collect)
    return output


class _Resize:
    """Ψ: (B, K, h, w) to (B, 1, H, W), the sum over channels of the rescaled and up-sampled absolute values."""

    def __init__(self, rescale: Rescale, size: tuple[int, int]) -> None:
        self.axes = (1, 2, 3) if rescale == "layer" else (2, 3)
        self.size = size

    def __call__(self, share: Tensor) -> Tensor:
        share = share.abs()
        low, high = share.amin(dim=self.axes, keepdim=True), share.amax(dim=self.axes, keepdim=True)
        scaled = torch.where(high > low, (share - low) / torch.where(high > low, high - low, 1), 0)
        return F.interpolate(scaled.sum(dim=1, keepdim=True), size=self.size, mode="bilinear", align_corners=False)
