"""Deconvnet: the gradient, with the rectifiers applied to the signals instead of the activations."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.guided_backprop import INSTEAD, RECTIFIED
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import (
    Rules,
    propagate,
    with_gradient_of,
)


def _rectify_signal(op: Operation) -> Tensor:
    """1[R > 0] R, whatever the activation."""
    output = with_gradient_of(op.run(), op.inputs[0])
    output.register_hook(lambda signal: signal.clamp(min=0))
    return output


RULES = Rules("deconvnet", RECTIFIED | {"rectifier": _rectify_signal}, INSTEAD)


@method(
    "deconvnet",
    slopes=True,
    paper=Paper("Visualizing and understanding convolutional networks", "Zeiler, Fergus", 2014, "ECCV", "1311.2901"),
    deviations="Filters are applied transposed, batch norms by their scale; ReLU6 counts as a rectifier.",
)
def deconvnet(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """The gradient of the score, with the rectifiers applied to the signals instead of the activations.

    At a rectifier with signal R from above: 1[R > 0] R; max-pooling routes R to its winner; every other op passes
    its gradient. x: (B, C, H, W) in [0, 1], y: (B,). Without rectifiers it is the gradient. Not complete, and not
    invariant to the implementation. Raises UsageError for activations other than ReLU and ReLU6, and for products.
    """
    return Attribution(propagate(oracle, x, y, RULES).gradients[:, 0])
