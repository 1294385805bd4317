"""Deconvnet: the gradient, with ReLUs applied to the gradients instead of the activations."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.guided_backprop import ALTERNATIVES, make_rectifier_rules
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rules, with_gradient_of


def _rectify_gradient(op: Operation) -> Tensor:
    """Return the output; its gradient becomes 1[R > 0] R, whatever the activation."""
    output = with_gradient_of(op.run(), op.inputs[0])
    output.register_hook(lambda gradient: gradient.clamp(min=0))
    return output


RULES = Rules("deconvnet", make_rectifier_rules(_rectify_gradient), ALTERNATIVES)


@method(
    "deconvnet",
    violates=frozenset({"sensitivity-a"}),
    slopes=True,
    paper=Paper(
        "Visualizing and understanding convolutional networks",
        "Matthew D. Zeiler, Rob Fergus",
        2014,
        "ECCV",
        "1311.2901",
    ),
    deviations="Filters are applied transposed, batch norms by their scale. Variants of the ReLU, such as ReLU6, GELU and SiLU, are "
    "treated as ReLUs; a GELU that a model writes as a product keeps its gradient.",
)
def deconvnet(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Compute the gradient of the score, with ReLUs applied to the gradients instead of the activations.

    At a ReLU, GELU, SiLU or ELU with the gradient R of its output: 1[R > 0] R; max-pooling routes R to the maximum; every other
    operation keeps its gradient: sigmoids, products, norms and attention too. Without ReLUs it is the gradient. Neither complete
    nor invariant to the implementation.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    """
    return Attribution(propagate(oracle, x, y, RULES).gradients[:, 0])
