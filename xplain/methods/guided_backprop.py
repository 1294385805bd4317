"""Guided backpropagation: the gradient, with negative gradients set to zero at every ReLU."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import Rules, keep_gradient, propagate

# The method is defined for ReLUs only: the other operations are linear, or a maximum, and keep their gradient.
OTHER_RULES = keep_gradient("route", "sum", "shift", "scale", "linear", "norm", "max")
ALTERNATIVES = "use deeplift, fullgrad or integrated-gradients"


def _clamp_gradient(op: Operation) -> Tensor:
    """Return the output; its gradient becomes 1[a > 0] 1[R > 0] R, where the ReLU's derivative gives 1[a > 0]."""
    output: Tensor = op.run()
    output.register_hook(lambda gradient: gradient.clamp(min=0))
    return output


RULES = Rules("guided-backprop", OTHER_RULES | {"rectifier": _clamp_gradient}, ALTERNATIVES)


@method(
    "guided-backprop",
    violates=frozenset({"sensitivity-a"}),
    slopes=True,
    alias="gbp",
    paper=Paper(
        "Striving for simplicity: the all convolutional net",
        "Jost Tobias Springenberg, Alexey Dosovitskiy, Thomas Brox, Martin Riedmiller",
        2015,
        "ICLR workshop",
        "1412.6806",
    ),
    deviations="A ReLU6 also stops gradients where it is saturated, as its derivative is zero there.",
)
def guided_backprop(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Compute the gradient of the score, with negative gradients set to zero at every ReLU.

    At a ReLU with input a and gradient R of its output: 1[a > 0] 1[R > 0] R; every other operation keeps its gradient.
    Without ReLUs it is the gradient. Neither complete nor invariant to the implementation.
    x: (B, C, H, W) in [0, 1]. y: (B,).
    Raises UsageError for activations other than ReLU and ReLU6, and for products of activations.
    """
    return Attribution(propagate(oracle, x, y, RULES).gradients[:, 0])
