"""Follow the axis of the channels of four-dimensional tensors: the first after the rows, or the last, or none in attention and after
changes of shape."""

from __future__ import annotations

from typing import Any

from xplain.oracle.operations import Operation, find_tensors
from xplain.oracle.propagation_rules import Rule

CHANNEL_AXIS = "_xplain_channel_axis"  # attribute of tensors


def find_channel_axis(op: Operation) -> int | None:
    """Return the axis of the channels in the output, which is 1 unless the operation says otherwise; None: no image."""
    source = op.inputs[0]
    axis: int | None = vars(source).get(CHANNEL_AXIS, 1)
    if op.kind == "linear":
        return {"linear": -1}.get(op.name, 1 if op.name.startswith("conv") else None)
    if op.kind == "layer-norm":
        return -1 if len(op.argument(1, "normalized_shape", ())) == 1 else axis
    if op.kind in ("bilinear", "softmax"):
        return None
    if op.name == "permute" and axis is not None:
        order = _order(op)
        return order.index(axis % source.ndim) if len(order) == 4 else None
    return axis


def _order(op: Operation) -> list[int]:
    """Return the order of the axes of ``permute``."""
    order = op.kwargs.get("dims") or (op.args[1] if isinstance(op.args[1], (list, tuple)) else op.args[1:])
    return [axis % op.inputs[0].ndim for axis in order]


def follow_channels(rule: Rule) -> Rule:
    """Return a rule that also records the axis of the channels on its output."""

    def follow(op: Operation) -> Any:
        axis = find_channel_axis(op)
        output = rule(op)
        for tensor in find_tensors(output):
            is_reshaped = op.kind == "route" and tensor.ndim != op.inputs[0].ndim
            vars(tensor)[CHANNEL_AXIS] = None if is_reshaped else axis
        return output

    return follow
