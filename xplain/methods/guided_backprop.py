"""Guided backpropagation: the gradient, with negative signals stopped at every rectifier."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import (
    Rules,
    keep_gradient,
    propagate,
)

# Defined for rectifiers alone: everything else is linear, or a maximum, and keeps its gradient.
RECTIFIED = keep_gradient("route", "sum", "shift", "scale", "linear", "norm", "max")
INSTEAD = "deeplift, fullgrad and integrated-gradients fit"


def _guided(op: Operation) -> Tensor:
    """1[a > 0] 1[R > 0] R, with the rectifier's own derivative for 1[a > 0]."""
    output: Tensor = op.run()
    output.register_hook(lambda signal: signal.clamp(min=0))
    return output


RULES = Rules("guided-backprop", RECTIFIED | {"rectifier": _guided}, INSTEAD)


@method(
    "guided-backprop",
    slopes=True,
    alias="gbp",
    paper=Paper(
        "Striving for simplicity: the all convolutional net",
        "Springenberg, Dosovitskiy, Brox, Riedmiller",
        2015,
        "ICLR workshop",
        "1412.6806",
    ),
    deviations="ReLU6 stops signals also where it is saturated: its own derivative is the gate.",
)
def guided_backprop(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """The gradient of the score, with negative signals stopped at every rectifier.

    At a rectifier with input a and signal R from above: 1[a > 0] 1[R > 0] R; every other op passes its gradient.
    x: (B, C, H, W) in [0, 1], y: (B,). Without rectifiers it is the gradient. Not complete, and not invariant to the
    implementation. Raises UsageError for activations other than ReLU and ReLU6, and for products of activations.
    """
    return Attribution(propagate(oracle, x, y, RULES).gradients[:, 0])
