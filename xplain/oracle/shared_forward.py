"""The forward pass of a prediction, kept with its graph for a method that starts with a backward pass at the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class LayerOutput(NamedTuple):
    """What a layer returned in its last run, with the graph, and how often it ran."""

    output: Tensor
    runs: int


class ForwardPass(NamedTuple):
    """A forward pass with its graph: the tensor that entered the model, the logits (B, classes), and outputs of layers by name."""

    leaf: Tensor
    logits: Tensor
    layers: dict[str, LayerOutput]


@dataclass(eq=False)
class SharedForward:
    """A forward pass that one backward pass can use.

    images: (B, C, H, W), which must not change. folded: whether batch norms were folded into convolutions.
    is_used: whether a backward pass used it, which releases the graph.
    """

    images: Tensor
    folded: bool
    forward_pass: ForwardPass | None
    is_used: bool = False
    _version: int = field(init=False)

    def __post_init__(self) -> None:
        self._version = self.images._version

    def take(self, x: Tensor, *, folded: bool, layers: Sequence[str] = ()) -> ForwardPass | None:
        """Return the forward pass if it is that of the rows x and has the outputs of the layers, else None. Can be used once."""
        taken = self.forward_pass
        is_same = x.data_ptr() == self.images.data_ptr() and x.shape == self.images.shape
        is_unchanged = self.images._version == self._version
        if taken is None or not is_same or not is_unchanged or folded != self.folded:
            return None
        if list(taken.layers) != list(layers):
            return None
        self.release()
        self.is_used = True
        return taken

    def release(self) -> None:
        """Free the memory of the graph."""
        self.forward_pass = None
