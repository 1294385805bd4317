"""Input x gradient: the image times the gradient of the score."""

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
        "Avanti Shrikumar, Peyton Greenside, Anna Shcherbina, Anshul Kundaje",
        2016,
        "",
        "1605.01713",
    ),
    axioms=frozenset({"linearity", "dummy", "symmetry", "implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    starts_with="gradients",
    deviations="The input is the image in [0, 1], so black pixels get zero; "
    "implementations that use normalized inputs give zero to the mean color (baseline=mean).",
)
def input_x_gradient(oracle: Oracle, x: Tensor, y: Tensor, *, baseline: Zero = "black") -> Attribution:
    """Multiply the image by the gradient of the score.

    φ = (x - r) ⊙ ∇f(x), where r is the reference. If the normalization maps r to zero, the sum equals the logit for piecewise
    linear models without biases.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    baseline: reference r: ``black``, ``mean`` for the color that the normalization maps to zero, or an image.
    """
    values, _ = local_attribution(oracle, x, y, make_zero(baseline, x, oracle), spread=False)
    return Attribution(values)
