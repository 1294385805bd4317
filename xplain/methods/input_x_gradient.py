"""Input times gradient."""

from torch import Tensor

from xplain.oracle import Oracle
from xplain.registry import method
from xplain.types import Attribution, Paper


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
    "codes that work on normalised inputs give zero to the mean colour.",
)
def input_x_gradient(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """The image times the gradient of the score.

    φ = x ⊙ ∇f(x). x: (B, C, H, W) in [0, 1], y: (B,). Sums to the logit on piecewise linear models without biases.
    """
    return Attribution(x * oracle.gradients(x, y).values)
