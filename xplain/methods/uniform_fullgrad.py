"""Uniform FullGrad: input times gradient, with the contribution of the biases spread evenly."""

from typing import Annotated, Literal

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.data.baselines import OR_IMAGES, check_baseline
from xplain.oracle import Oracle

Zero = Annotated[Literal["mean", "black"], OR_IMAGES]


@method(
    "uniform-fullgrad",
    alias="ufg",
    paper=Paper(
        "Distilled gradient aggregation: purify features for input attribution in the deep neural network",
        "Giyoung Jeon, Haedong Jeong, Jaesik Choi",
        2022,
        "NeurIPS",
    ),
    axioms=frozenset({"completeness", "linearity", "implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    starts_with="gradients",
    deviations="No hooks: the sum of the bias terms is f(x) - ⟨∇f, x⟩. It equals the sum over layers on piecewise linear networks "
    "(tested) and is defined for all other networks too.",
)
def uniform_fullgrad(oracle: Oracle, x: Tensor, y: Tensor, *, baseline: Zero = "mean") -> Attribution:
    """Multiply the input by the gradient and distribute the remaining score evenly over all pixels and channels.

    φ = (x - r) ⊙ ∇f(x) + (f(x) - Σ (x - r) ⊙ ∇f(x)) / d (Eq. 4), d = C·H·W, so that Σ φ = f(x).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    baseline: r, the zero point of the input; ``mean`` is the zero of the normalized input, as in the paper; or an image.
    """
    values, scores = local_attribution(oracle, x, y, make_zero(baseline, x, oracle), spread=True)
    return Attribution(values, expected=scores)


def make_zero(baseline: Zero | Tensor, x: Tensor, oracle: Oracle) -> Tensor:
    """Return the zero point of the input, shaped like x. Raises InputError if the shape of given images differs from that of x."""
    if isinstance(baseline, Tensor):
        check_baseline(baseline, x)
        return baseline.to(x).expand_as(x)
    zero = oracle.mean_color(x).to(x.dtype) if baseline == "mean" else x.new_zeros(())
    return zero.expand_as(x)


def local_attribution(oracle: Oracle, x: Tensor, y: Tensor, zero: Tensor, *, spread: bool) -> tuple[Tensor, Tensor]:
    """Return (x - zero) ⊙ ∇f(x) (B, C, H, W) and the scores (B,). spread: add the rest of the score evenly to all values."""
    result = oracle.gradients(x, y)
    values = (x - zero) * result.values
    if spread:
        rest = result.scores.double() - values.double().sum(dim=(1, 2, 3))
        values = values + (rest / x[0].numel()).to(x.dtype)[:, None, None, None]
    return values, result.scores
