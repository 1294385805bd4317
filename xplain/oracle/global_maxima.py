"""Recognize maxima over all positions, such as ``x.amax(dim=(2, 3))``, which are max poolings of one window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from xplain.oracle.operations import Operation


def as_max_pooling(operation: Operation) -> Operation:
    """Return the max pooling that computes the same as a maximum over height and width, or the operation itself."""
    if operation.name != "amax" or len(operation.inputs) != 1 or operation.inputs[0].ndim != 4:
        return operation
    dim, keepdim = operation.argument(1, "dim", ()), operation.argument(2, "keepdim", False)
    if not isinstance(dim, (tuple, list)) or sorted(axis % 4 for axis in dim) != [2, 3]:
        return operation

    def pool(x: Tensor, return_indices: bool = False) -> Any:
        maxima, indices = F.adaptive_max_pool2d(x, 1, return_indices=True)
        maxima = maxima if keepdim else maxima.flatten(1)
        return (maxima, indices) if return_indices else maxima

    return replace(operation, kind="max", function=pool, args=(operation.inputs[0],), kwargs={})
