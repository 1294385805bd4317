"""Baseline images that the user gives."""

from __future__ import annotations

from torch import Tensor

from xplain.core.errors import InputError


def check_shape(references: Tensor, x: Tensor) -> None:
    """Raise InputError unless there are baselines, of the shape (N, C, H, W) for the images x (B, C, H, W)."""
    if len(references) == 0:
        raise InputError("there are no baselines", "pass at least one image")
    if references.ndim != 4 or references.shape[1:] != x.shape[1:]:
        raise InputError(
            f"baselines of shape {tuple(references.shape)} do not match images of shape {tuple(x.shape)}",
            "pass baselines of shape (N, C, H, W)",
        )
