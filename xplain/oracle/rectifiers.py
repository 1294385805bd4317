"""Recognize ReLUs that a model writes as a mask, such as ``x * (x > 0)`` and ``torch.where(x > 0, x, 0)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.oracle.operations import Operation

COMPARISONS = {"gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"}
# Operations that convert or negate a mask.
CONVERSIONS = {
    *("float", "double", "half", "bfloat16", "bool", "int", "long", "to", "type", "type_as"),
    *("detach", "clone", "contiguous", "logical_not", "bitwise_not", "__invert__"),
}
MASKED_OPERATIONS = {"mul", "where", "masked_fill"}
MAXIMA = {"maximum", "fmax", "max", "threshold", "_threshold"}
COMPARED = "_xplain_compared"  # attribute of masks: the tensor that was compared with zero


def record_mask(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], dependent: Sequence[Tensor], mask: object
) -> None:
    """Record on a mask which tensor was compared with zero, if the operation ``name`` compares with zero or converts a mask.

    dependent: the arguments that depend on the image. mask: the output of the operation.
    """
    if not isinstance(mask, Tensor) or not dependent:
        return
    first = dependent[0]
    if name in COMPARISONS and len(dependent) == 1:
        others = [value for value in (*args, *kwargs.values()) if value is not first]
        if all(map(_is_zero, others)):
            vars(mask)[COMPARED] = first.detach()
    elif COMPARED in vars(first) and (name in CONVERSIONS or (name == "where" and len(dependent) == 1)):
        vars(mask)[COMPARED] = vars(first)[COMPARED]


def as_rectifier(operation: Operation, hidden: Sequence[Tensor]) -> Operation | None:
    """Return the ReLU that computes the same as an operation, or None if there is none.

    The operation is a maximum with zero, or uses a mask that compares its input with zero, and its values equal those of the ReLU on
    all rows.

    hidden: the operands that depend on the image but have no gradient.
    """
    if len(operation.inputs) != 1 or len(hidden) > 1:
        return None
    source = operation.inputs[0]
    if hidden:
        compared = vars(hidden[0]).get(COMPARED)
        if operation.name not in MASKED_OPERATIONS or compared is None or not _is_same(compared, source):
            return None
    elif operation.name not in MAXIMA:
        return None
    with torch.no_grad():
        output = operation.run()
        if not isinstance(output, Tensor) or output.dtype != source.dtype or not torch.equal(output, F.relu(source)):
            return None
    return replace(operation, name="relu", kind="rectifier", function=F.relu, args=(source,), kwargs={}, constants=[])


def _is_zero(value: object) -> bool:
    """Return whether a number is zero, or a tensor has zeros only."""
    if isinstance(value, Tensor):
        return not bool(value.any())
    return isinstance(value, (int, float)) and value == 0


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are the same view of the same memory."""
    return (
        first.data_ptr() == second.data_ptr()
        and first.dtype == second.dtype
        and first.shape == second.shape
        and first.stride() == second.stride()
    )
