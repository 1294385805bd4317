"""Linear layers that compute the logits (-z, z) of two classes, for networks whose output is the logit z of one.

A linear layer with negative weights computes the logit of class 0, so that propagation rules treat both classes alike. Each logit
has its own operation, so that a negated network gives exactly the same values with the classes swapped.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _TwoClassLayer(nn.Module):
    """A layer with one output, sign * z, which also computes -sign * z. sign: 1 or -1."""

    sign: int
    outputs: tuple[Tensor, Tensor] | None

    def take_logits(self) -> Tensor:
        """Return (-z, z) of the last forward pass as (rows, 2), and forget it."""
        outputs, self.outputs = self.outputs, None
        assert outputs is not None
        own, negative = (output.reshape(-1, 1) for output in outputs)
        return torch.cat([negative, own] if self.sign > 0 else [own, negative], dim=1)


class TwoClassLinear(_TwoClassLayer, nn.Linear):
    """A linear layer with one output that also computes the negative output."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., 1) for x (..., features)."""
        bias = None if self.bias is None else -self.bias
        output = F.linear(x, self.weight, self.bias)
        self.outputs = (output, F.linear(x, -self.weight, bias))
        return output


class TwoClassConv2d(_TwoClassLayer, nn.Conv2d):
    """A convolution with one output that also computes the negative output."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 1, h, w) for x (B, C, h, w)."""
        bias = None if self.bias is None else -self.bias
        output = self._conv_forward(x, self.weight, self.bias)
        self.outputs = (output, self._conv_forward(x, -self.weight, bias))
        return output


_TWO_CLASS_TYPES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: TwoClassLinear, nn.Conv2d: TwoClassConv2d}


def has_one_output(module: nn.Module) -> bool:
    """Return whether a module is a linear layer or convolution with one output, which ``make_two_class`` accepts.

    Subclasses and layers with computed weights are not accepted.
    """
    if type(module) not in _TWO_CLASS_TYPES:  # modules of TorchScript have other tables of parameters
        return False
    weight = module._parameters.get("weight")
    return weight is not None and len(weight) == 1


def make_two_class(layer: nn.Module, sign: int) -> None:
    """Change a layer with the output sign * z, in place, into one that also computes -sign * z."""
    assert has_one_output(layer)
    layer.__class__ = _TWO_CLASS_TYPES[type(layer)]
    vars(layer).update(sign=sign, outputs=None)
