"""Batch norms whose statistics and weights stay as they are: the same forward, and a gradient that only scales.

PyTorch's own backward of an evaluated norm also reads its input and adds up what the weights' gradients need, which nobody asks for
here: half of it is saved, a tenth of a gradient of EfficientNet-Lite0 on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Scaled(torch.autograd.Function):
    """An evaluated batch norm; its gradient is the output's times weight / sqrt(variance + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: _Fixed) -> Tensor:
        """x: (B, C, ...)."""
        ctx.norm = norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """slope: (B, C, ...)."""
        norm = ctx.norm
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        return (slope * scale.reshape(-1, *[1] * (slope.ndim - 2))).to(slope.dtype), None


class _Fixed(nn.modules.batchnorm._BatchNorm):
    """In evaluation, with frozen weights."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        if self.training or self.running_var is None or any(each.requires_grad for each in self.parameters()):
            return super().forward(x)
        self._check_input_dim(x)
        return _Scaled.apply(x, self)


class _Fixed1d(_Fixed, nn.BatchNorm1d): ...


class _Fixed2d(_Fixed, nn.BatchNorm2d): ...


class _Fixed3d(_Fixed, nn.BatchNorm3d): ...


_FIXED: dict[type[nn.Module], type[_Fixed]] = {
    nn.BatchNorm1d: _Fixed1d,
    nn.BatchNorm2d: _Fixed2d,
    nn.BatchNorm3d: _Fixed3d,
}


def fix_norms(model: nn.Module) -> None:
    """Turn the model's batch norms into fixed ones, in place; classes derived from them are left as they are."""
    for module in model.modules():
        if fixed := _FIXED.get(type(module)):
            module.__class__ = fixed
