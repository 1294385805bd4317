"""Linear layers that compute the logits (-z, z) of two classes, for networks whose output is the logit z of one.

With the logit of class 0 inside the last layer, rules of propagation treat both classes alike: the weights of class 0 are the
negative weights of class 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _TwoClassLayer(nn.Module):
    """Remember the logits (-z, z) until ``take_logits``. column: which of them is the output of the original layer."""

    logits: Tensor | None
    column: int

    def remember(self, logits: Tensor, axis: int) -> Tensor:
        """Remember (-z, z) along an axis, and return the output of the original layer."""
        self.logits = logits
        return logits.narrow(axis, self.column, 1)

    def take_logits(self) -> Tensor:
        """Return (-z, z) of the last forward pass and forget it."""
        logits, self.logits = self.logits, None
        assert logits is not None
        return logits


class TwoClassLinear(_TwoClassLayer, nn.Linear):
    """A linear layer that computes (-z, z) and returns one of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the original output (..., 1) for x (..., features)."""
        return self.remember(nn.Linear.forward(self, x), -1)


class TwoClassConv2d(_TwoClassLayer, nn.Conv2d):
    """A convolution that computes (-z, z) and returns one of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the original output (B, 1, h, w) for x (B, C, h, w)."""
        return self.remember(nn.Conv2d.forward(self, x), -3)


_TWO_CLASS_TYPES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: TwoClassLinear, nn.Conv2d: TwoClassConv2d}


def has_one_output(module: nn.Module) -> bool:
    """Return whether a module is a linear layer or convolution with one output, which ``make_two_class`` accepts.

    Subclasses and layers with computed weights are not accepted.
    """
    weight = module._parameters.get("weight")
    return type(module) in _TWO_CLASS_TYPES and weight is not None and len(weight) == 1


def make_two_class(layer: nn.Module, sign: int) -> None:
    """Change a layer with the output sign * z, in place, into one that also computes (-z, z)."""
    assert has_one_output(layer)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        weight = sign * parameter.detach()
        setattr(layer, name, nn.Parameter(torch.cat([-weight, weight]), parameter.requires_grad))
    layer.__class__ = _TWO_CLASS_TYPES[type(layer)]
    if isinstance(layer, nn.Linear):
        layer.out_features = 2
    elif isinstance(layer, nn.Conv2d):
        layer.out_channels = 2
    layer.logits, layer.column = None, (1 if sign > 0 else 0)  # type: ignore[assignment]
