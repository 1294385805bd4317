"""Follow the axis of the rows through a forward pass of images and other streams.

Rules that compare the rows of an image with those of its baseline need the axis of the rows: the first one, unless the model swaps
axes, as transformers do for queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xplain.oracle.operations import Operation, find_tensors

ROW_AXIS = "_xplain_row_axis"  # attribute of tensors whose rows do not lie along the first axis
# Operations that can move the rows to another axis.
MOVES = {
    *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT", "H", "mH"),
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "__getitem__", "select", "unbind", "mean"),
}
SWAPS = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT", "H", "mH"}


def find_row_axis(inputs: Sequence[Tensor]) -> int | None:
    """Return the axis of the rows in the inputs of an operation, or None if it is not the same in all of them."""
    axes = {vars(tensor).get(ROW_AXIS, 0) for tensor in inputs}
    return axes.pop() if len(axes) == 1 else None


def follow_row_axis(operation: Operation, output: object, parts: int) -> bool:
    """Record the axis of the rows on the tensors of the output; return whether it is known.

    parts: the number of equal parts of the rows that must be found: images and baselines, or single images.
    """
    axis, source = operation.row_axis, operation.inputs[0]
    if axis == 0 and operation.name not in SWAPS:
        return True
    if operation.name in MOVES and len(operation.inputs) == 1:
        marks = operation.run(_mark_parts(source, axis, parts))
        found = [_find_marks(mark, parts) for mark in find_tensors(marks)]
    else:
        is_kept = [
            output.ndim == source.ndim and output.shape[axis] == source.shape[axis] for output in find_tensors(output)
        ]
        found = [axis if kept else None for kept in is_kept]
    for tensor, found_axis in zip(find_tensors(output), found, strict=True):
        if found_axis is None:
            return False
        if found_axis > 0:
            vars(tensor)[ROW_AXIS] = found_axis
    return True


def _mark_parts(source: Tensor, axis: int, parts: int) -> Tensor:
    """Return a tensor of the shape of ``source`` with the number of the part of each entry."""
    count = source.shape[axis]
    marks = (torch.arange(count, device=source.device) * parts // count).double()
    return marks.view(-1, *[1] * (source.ndim - 1 - axis)).expand(source.shape)


def _find_marks(marks: Tensor, parts: int) -> int | None:
    """Return the first axis along which the numbers of the parts lie in order, or None if there is none."""
    for axis in range(marks.ndim):
        if torch.equal(marks, _mark_parts(marks, axis, parts)):
            return axis
    return None
