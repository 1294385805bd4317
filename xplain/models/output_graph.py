"""Read the end of a network from the autograd graph of its output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from xplain.models.final_activation import Function

FUNCTIONS: dict[str, Function] = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid",
}
# Operations that only change the shape, the memory layout or the dtype, or select entries.
SHAPE_OPERATIONS = frozenset(
    {
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Squeeze",
        "Unsqueeze",
        "Select",
        "Slice",
        "T",
        "Transpose",
        "Permute",
        "Clone",
        "ToCopy",
        "Alias",
        "Expand",
        "Unbind",
    }
)
WEIGHTED_OPERATIONS = frozenset(("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Mv", "Dot"))
# A sigmoid that is written as a formula ends in one of the former and computes one of the latter.
FORMULA_ENDS = frozenset(("Div", "Mul", "Reciprocal", "Add", "Sub", "Rsub", "Clamp", "ClampMin", "ClampMax", "Neg"))
FORMULA_PARTS = frozenset(("Exp", "Exp2", "Tanh", "Sigmoid", "Softmax"))
MAX_FORMULA = 12  # operations


def operation_name(node: Any) -> str:
    """Return the name of the operation of a node: ``Softmax`` for SoftmaxBackward0."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")


def skip_shape_operations(node: Any) -> Iterator[Any]:
    """Yield the nodes from ``node`` back to the first that does more than change shapes, including that node."""
    while node is not None:
        yield node
        if operation_name(node) not in SHAPE_OPERATIONS:
            return
        node = node.next_functions[0][0]


def find_final_function(output: Tensor) -> Function | None:
    """Return the activation function that was applied last, or None if another operation was."""
    nodes = list(skip_shape_operations(output.grad_fn))
    return FUNCTIONS.get(operation_name(nodes[-1])) if nodes else None


def ends_in_formula(output: Tensor) -> bool:
    """Return whether an output is computed from an exponential or an activation by elementwise arithmetic, as in 1 / (1 + exp(-z))."""
    nodes = list(skip_shape_operations(output.grad_fn))
    if not nodes or operation_name(nodes[-1]) not in FORMULA_ENDS:
        return False
    queue = [nodes[-1]]
    for _ in range(MAX_FORMULA):
        if not queue:
            return False
        node = queue.pop(0)
        name = operation_name(node)
        if name in FORMULA_PARTS:
            return True
        if name not in WEIGHTED_OPERATIONS:
            queue += [parent for parent, _ in node.next_functions if parent is not None]
    return False
