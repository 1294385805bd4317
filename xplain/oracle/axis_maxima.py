"""Maxima along axes, such as ``x.amax(dim=(2, 3))`` and ``x.max(dim=1)``, as max poolings of one window per output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.oracle.operations import Operation
from xplain.oracle.row_axis import find_row_axis


def as_max_pooling(operation: Operation) -> Operation:
    """Return the max pooling that computes the maxima of an operation, or the operation itself if it computes none.

    Its input is that of the operation as (rows, R, 1, M), with the M entries of each of the R windows of a row along the last axis.
    Maxima along the axis of the rows compare rows, and are no pooling.
    """
    axes = _find_axes(operation)
    if not axes:
        return operation
    source = operation.inputs[0]
    shape = [1 if axis in axes else size for axis, size in enumerate(source.shape)]
    if not operation.argument(2, "keepdim", False):
        shape = [size for axis, size in enumerate(source.shape) if axis not in axes]
    others = [axis for axis in range(1, source.ndim) if axis not in axes]
    windows = source.permute(0, *others, *axes).flatten(1 + len(others))
    windows = windows.reshape(len(source), -1, 1, windows.shape[-1])

    def pool(windows: Tensor, return_indices: bool = False) -> Any:
        maxima, indices = F.adaptive_max_pool2d(windows, 1, return_indices=True)
        maxima = maxima.reshape(len(maxima), *shape[1:])
        return (maxima, indices) if return_indices else maxima

    return replace(operation, kind="max", function=pool, args=(windows,), kwargs={}, inputs=[windows], constants=[])


def complete_output(name: str, operation: Operation, output: Any) -> Any:
    """Return the maxima of an operation in the form of the operation ``name``: ``x.max(dim)`` returns indices, too."""
    if name != "max" or operation.kind != "max":
        return output
    indices = operation.run(return_indices=True)[1]
    return torch.return_types.max((output, indices.reshape(output.shape)))


def _find_axes(operation: Operation) -> list[int]:
    """Return the axes along which an operation computes maxima; empty if it computes none, or compares rows."""
    if operation.name not in ("amax", "max") or len(operation.inputs) != 1:
        return []
    source = operation.inputs[0]
    dim = operation.argument(1, "dim", ())
    dims = dim if isinstance(dim, tuple | list) else [dim]
    if not all(isinstance(axis, int) for axis in dims):
        return []
    axes = sorted(axis % source.ndim for axis in dims)
    return [] if 0 in axes or find_row_axis([source]) != 0 else axes
