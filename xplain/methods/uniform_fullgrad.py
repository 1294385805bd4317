"""Uniform FullGrad: input times gradient, with the biases' share spread evenly."""

from typing import Literal

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.oracle import Oracle

Zero = Literal["mean", "black"]


@method(
    "uniform-fullgrad",
    alias="ufg",
    paper=Paper(
        "Distilled gradient aggregation: purify features for input attribution in the deep neural network",
        "Jeon, Jeong, Choi",
        2022,
        "NeurIPS",
    ),
    axioms=frozenset({"completeness", "linearity", "implementation-invariance"}),
    deviations="No hooks: the bias terms' sum is f(x) - ⟨∇f, x⟩, equal to the sum over layers on piecewise linear networks (tested), "
    "and defined for any other network too.",
)
def uniform_fullgrad(oracle: Oracle, x: Tensor, y: Tensor, *, baseline: Zero = "mean") -> Attribution:
    """Input times gradient, plus the rest of the score spread evenly over all values.

    φ = (x - r) ⊙ ∇f(x) + (f(x) - Σ (x - r) ⊙ ∇f(x)) / d (Eq. 4), so that Σ φ = f(x).
    baseline r: what counts as zero; ``mean`` is the zero of the model's normalised input, where the paper works.
    x: (B, C, H, W) in [0, 1], y: (B,); d = C·H·W.
    """
    values, score = local_attribution(oracle, x, y, make_zero(baseline, x, oracle), spread=True)
    return Attribution(values, expected=score)


def make_zero(baseline: Zero, x: Tensor, oracle: Oracle) -> Tensor:
    """The image that counts as zero, shaped like x."""
    return oracle.mean.to(x.dtype).expand_as(x) if baseline == "mean" else x.new_zeros(()).expand_as(x)


def local_attribution(oracle: Oracle, x: Tensor, y: Tensor, zero: Tensor, *, spread: bool) -> tuple[Tensor, Tensor]:
    """(x - zero) ⊙ ∇f(x) (B, C, H, W), with the rest of the score spread evenly if ``spread``; and the scores (B,)."""
    found = oracle.gradients(x, y)
    values = (x - zero) * found.values
    if spread:
        rest = found.scores.double() - values.double().sum(dim=(1, 2, 3))
        values = values + (rest / x[0].numel()).to(x.dtype)[:, None, None, None]
    return values, found.scores
