"""Input times gradient."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.uniform_fullgrad import Zero, local_attribution, make_zero
from xplain.oracle import Oracle


@method(
    "input-x-gradient",
    alias="gxi",
    paper=Paper(
        "Not just a black box: learning important features through propagating activation differences",
        "Shrikumar, Greenside, Shcherbina, Kundaje",
        2016,
        "",
        "1605.01713",
    ),
    axioms=frozenset({"linearity", "dummy", "symmetry", "implementation-invariance"}),
    deviations="The input is the image in [0, 1], so black pixels get zero; "
    "codes that work on normalised inputs give zero to the mean colour (baseline=mean).",
)
def input_x_gradient(oracle: Oracle, x: Tensor, y: Tensor, *, baseline: Zero = "black") -> Attribution:
    """The image times the gradient of the score.

    φ = (x - r) ⊙ ∇f(x), r what counts as zero: black, or ``mean``, the zero of the model's normalised input.
    x: (B, C, H, W) in [0, 1], y: (B,). Sums to the logit on piecewise linear models without biases, at the r that is their zero.
    """
    values, _ = local_attribution(oracle, x, y, make_zero(baseline, x, oracle), spread=False)
    return Attribution(values)
