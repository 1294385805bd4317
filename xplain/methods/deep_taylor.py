"""Deep Taylor decomposition: relevance by first-order expansions at root points of every neuron."""

from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.lrp import (
    PASSING,
    SCORES,
    Group,
    Part,
    box,
    carry,
    falling,
    relevance,
    rising,
    share,
    stable,
    start,
)
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import (
    Rules,
    with_gradient_of,
)

INSTEAD = "lrp, deeplift and integrated-gradients fit"
TINY = 1e-9


def _positive(op: Operation, a: Tensor) -> list[Group]:
    """The positive contributions alone; biases take nothing."""
    up = Part(a.clamp(min=0), rising, bias=False)
    return [(1.0, [up, Part(a.clamp(max=0), falling, bias=False)])]


def _linear(op: Operation) -> Tensor:
    return share(op, box if op.has_all_rows else _positive, TINY)


def _sum(op: Operation) -> Tensor:
    """In proportion to the summands' sizes, which after rectifiers are the summands themselves."""
    sizes = [each.abs() for each in op.inputs]
    if op.name == "sub":
        sizes[1] = -sizes[1]
    z = op.run(*(carry(each, size) for each, size in zip(op.inputs, sizes, strict=True)))
    return with_gradient_of(op.run(), z / stable(z, TINY))


UNDEFINED = ("norm", "activation", "product")
TABLE = {kind: rule for kind, rule in PASSING.items() if kind not in UNDEFINED} | {"linear": _linear, "sum": _sum}
RULES = Rules("deep-taylor", TABLE, INSTEAD, SCORES, start)


@method(
    "deep-taylor",
    paper=Paper(
        "Explaining nonlinear classification decisions with deep Taylor decomposition",
        "Montavon, Lapuschkin, Binder, Samek, Müller",
        2017,
        "Pattern Recognition",
        "1512.02479",
        journal=True,
    ),
    deviations="Positive biases, which the paper excludes, take no relevance. A negative score gives a negative map.",
)
def deep_taylor(oracle: Oracle, x: Tensor, y: Tensor) -> Attribution:
    """Relevance by first-order expansions at root points of every neuron: z⁺ in hidden layers, z^B at the pixels.

    Hidden layers: R_j = Σ_k (a_j w_jk)⁺ R_k / Σ_j (a_j w_jk)⁺. First layer, pixels between 0 and 1, which become l and h:
    R_j = Σ_k (x_j w - l_j w⁺ - h_j w⁻) R_k / Σ_j (x_j w - l_j w⁺ - h_j w⁻). Rectifiers pass R; max-pooling gives it to the
    winner; sums, means and residual additions divide it in proportion to the summands' sizes. Starts with R = f(x).
    Σ R = f(x) but for neurons without any positive contribution, whose relevance is lost; R has the sign of f(x).
    x: (B, C, H, W) in [0, 1], y: (B,). Defined for logit and margin on networks of convolutions and rectifiers. Raises
    UsageError for other scores, other activations, products and batch norms that no convolution precedes.
    """
    return Attribution(relevance(oracle, x, y, RULES, boxed=True))
