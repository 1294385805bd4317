"""Convert the output of a network to the logits (B, classes) of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError
from xplain.models.final_activation import ActivationMode, FinalCall, Function, invert_activation
from xplain.models.logits import find_logits
from xplain.models.two_class_layers import TwoClassConv2d, TwoClassLinear, make_two_class


@dataclass(frozen=True)
class OutputReader:
    """How the logits of a classifier are computed from the output of its network.

    entry: name or index of the logits in the output, empty for the output itself; None: search in every output.
    columns: the number of values per image in that entry, or None if unknown.
    final_call: the activation at the end of the network, which is not run.
    final_module: name of the module that runs ``final_call`` and nothing else; empty if a function does.
    inverted: the activation at the end of the network that cannot be skipped; the logits are its inverse.
    is_binary: the network has one output, the logit of class 1.
    linear: name of the linear layer or 1x1 convolution whose output is that logit times ``linear_sign``; empty if there is none.
    two_class_layer: name of that layer if it computes the logits of both classes, as in inference copies.
    """

    entry: str | None = None
    columns: int | None = None
    final_call: FinalCall | None = None
    final_module: str = ""
    inverted: Function | None = None
    is_binary: bool = False
    linear: str = ""
    linear_sign: int = 1
    two_class_layer: str = ""

    def run(self, model: nn.Module, compute: Callable[[], object]) -> Tensor:
        """Return the logits (rows, classes). Propagation rules may change the number of rows in the network.

        model: the network. compute: function that runs the network and returns its output.
        Raises InputError if the output has no logits, or the network calls other activations than when it was inspected.
        """
        output = self.run_without_activation(compute)
        if self.two_class_layer:
            layer = model.get_submodule(self.two_class_layer)
            assert isinstance(layer, TwoClassLinear | TwoClassConv2d)
            return layer.take_logits()
        logits = self.find(output)
        if self.inverted is not None:
            logits = invert_activation(self.inverted, logits)
        return torch.cat([-logits, logits], dim=1) if self.is_binary else logits

    def run_without_activation(self, compute: Callable[[], object]) -> object:
        """Return the output of the network with ``final_call`` skipped."""
        if self.final_call is None:
            return compute()
        with ActivationMode(self.final_call) as mode:
            output = compute()
        if mode.total != self.final_call.total:
            raise InputError(
                f"the model calls {mode.total} activation functions for these images, and {self.final_call.total} for others, so that "
                f"its final {self.final_call.function} cannot be identified",
                "return the logits",
            )
        return output

    def find(self, output: object) -> Tensor:
        """Return the entry of the output that holds the logits, as (rows, columns). Raises InputError if it has another shape."""
        return find_logits(output, None, self.columns, self.entry or "")[0]


def rewrite_output(model: nn.Module, reader: OutputReader) -> OutputReader:
    """Change a copy of a network so that its logits need no torch function mode, and return the reader for it.

    The module of the final activation becomes an identity, and the layer of a single logit computes those of both classes.
    """
    changes: dict[str, Any] = {}
    if reader.final_module:
        model.get_submodule(reader.final_module).__class__ = _Skipped
        changes |= {"final_call": None, "final_module": ""}
    if reader.linear:
        make_two_class(model.get_submodule(reader.linear), reader.linear_sign)
        changes |= {"linear": "", "two_class_layer": reader.linear}
    return replace(reader, **changes)


class _Skipped(nn.Identity):
    """An activation module that returns its input."""
