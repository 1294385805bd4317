"""Guided backpropagation: the gradient, with negative gradients set to zero at every ReLU."""

from typing import Any

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.oracle import Oracle
from xplain.oracle.operations import Kind, Operation
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rule, Rules, keep_gradient

ALTERNATIVES = "use deeplift, fullgrad or integrated-gradients"
# Activations that replace ReLUs. Sigmoids and their like are gates, and keep their gradient as products and norms do.
SMOOTH_RECTIFIERS = {"gelu", "silu", "mish", "hardswish", "softplus", "elu", "selu", "celu", "leaky_relu", "prelu"}
OTHER_RULES = keep_gradient(
    *("route", "sum", "shift", "scale", "linear", "norm", "max", "product"),
    *("bilinear", "division", "power", "length", "layer-norm", "softmax"),
)


def make_rectifier_rules(rule: Rule) -> dict[Kind, Rule]:
    """Return a rule table with ``rule`` for ReLUs and their smooth variants; the other operations keep their gradient."""

    def activation_rule(op: Operation) -> Any:
        return rule(op) if op.name in SMOOTH_RECTIFIERS else op.run()

    return OTHER_RULES | {"rectifier": rule, "activation": activation_rule}


def _clamp_gradient(op: Operation) -> Tensor:
    """Return the output; its gradient becomes h'(a) 1[R > 0] R, where the derivative of a ReLU is 1[a > 0]."""
    output: Tensor = op.run()
    output.register_hook(lambda gradient: gradient.clamp(min=0))
    return output


RULES = Rules("guided-backprop", make_rectifier_rules(_clamp_gradient), ALTERNATIVES)


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
    deviations="Defined in the paper for ReLUs. Their variants h, such as ReLU6, GELU and SiLU, have the derivative h'(a) in place of "
    "1[a > 0]; a GELU that a model writes as a product keeps its gradient.",
)
def guided_backprop(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Compute the gradient of the score, with negative gradients set to zero at every ReLU.

    At a ReLU with input a and gradient R of its output: 1[a > 0] 1[R > 0] R. At its smooth variants h (GELU, SiLU, ELU, ...):
    h'(a) 1[R > 0] R. Every other operation keeps its gradient: sigmoids, products, norms and attention too.
    Without ReLUs it is the gradient. Neither complete nor invariant to the implementation.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    """
    return Attribution(propagate(oracle, x, y, RULES).gradients[:, 0])
