"""Batch norms with a correct backward pass in every precision, and with a fast one in frozen copies.

On CPU, the backward pass of torch's batch norm and instance norm is wrong, by more than 100 % in every precision, for a call of one
row whose input or gradient has the strides of permuted tokens, as in ``norm(x).flatten(2).transpose(1, 2)``. The stride of the first
dimension, which has one entry, is then not the size of a row.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PROTECTED = (_BatchNorm, _InstanceNorm)


def protect_norms(model: nn.Module) -> None:
    """Replace the classes of the model's batch and instance norms, in place, so that their backward pass is correct.

    Subclasses keep their own forward pass. Other numbers do not change.
    """
    for module in model.modules():
        is_script = isinstance(module, torch.jit.ScriptModule)
        if isinstance(module, PROTECTED) and not isinstance(module, _ProtectedNorm) and not is_script:
            module.__class__ = _protected_class(type(module))  # type: ignore[assignment, arg-type]


@cache
def _protected_class(norm_class: type[nn.Module]) -> type[nn.Module]:
    return type(norm_class.__name__, (_ProtectedNorm, norm_class), {"__module__": norm_class.__module__})


class _ProtectedNorm(nn.Module):
    """A norm that receives inputs and gradients of one row with standard strides only."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the norm on x (B, C, ...)."""
        output = super().forward(_with_standard_strides(x), *args, **kwargs)
        if isinstance(output, Tensor) and output.requires_grad and len(output) == 1:
            # a hook, because propagation rules cannot trace an autograd function; an undefined gradient is None
            output.register_hook(lambda gradient: None if gradient is None else _with_standard_strides(gradient))
        return output


def _with_standard_strides(x: Tensor) -> Tensor:
    """Return x (B, ...). One row whose stride is not the size of the row is copied to contiguous memory."""
    return x.clone(memory_format=torch.contiguous_format) if len(x) == 1 and x.stride(0) != x.numel() else x


def fix_batch_norms(model: nn.Module) -> None:
    """Replace the classes of the model's batch norms by fixed ones, in place, which are protected too.

    Subclasses of batch norms are not changed.
    """
    for module in model.modules():
        fixed_class = _FIXED_CLASSES.get(type(module))
        if fixed_class is not None:
            module.__class__ = fixed_class


class _FixedBatchNorm(_ProtectedNorm, _BatchNorm):
    """Batch norm with a fast backward pass in evaluation mode, if its parameters are frozen."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Normalize x (B, C, ...)."""
        is_learning = any(parameter.requires_grad for parameter in self.parameters())
        if self.training or self.running_var is None or is_learning:
            return super().forward(x, *args, **kwargs)
        self._check_input_dim(x)
        return _FixedBatchNormFunction.apply(x, self)


class _FixedBatchNorm1d(_FixedBatchNorm, nn.BatchNorm1d): ...


class _FixedBatchNorm2d(_FixedBatchNorm, nn.BatchNorm2d): ...


class _FixedBatchNorm3d(_FixedBatchNorm, nn.BatchNorm3d): ...


_FIXED_CLASSES: dict[type[nn.Module], type[_FixedBatchNorm]] = {
    nn.BatchNorm1d: _FixedBatchNorm1d,
    nn.BatchNorm2d: _FixedBatchNorm2d,
    nn.BatchNorm3d: _FixedBatchNorm3d,
}
_FIXED_CLASSES |= {_protected_class(original): fixed for original, fixed in _FIXED_CLASSES.items()}  # type: ignore[arg-type]


class _FixedBatchNormFunction(torch.autograd.Function):
    """Batch norm in evaluation mode. The gradient of its input is that of its output times weight / sqrt(variance + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: _FixedBatchNorm) -> Tensor:
        """Normalize x (B, C, ...) by the running statistics of ``norm``."""
        ctx.norm = norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of x for grad_output (B, C, ...)."""
        norm = ctx.norm
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        grad_input = grad_output * scale.reshape(-1, *[1] * (grad_output.ndim - 2))
        return grad_input.to(grad_output.dtype), None
