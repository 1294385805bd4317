"""The forward pass of a prediction, kept with its graph for a method that starts with the gradient at the same images."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(eq=False)
class SharedForward:
    """A forward pass with its graph, which one backward pass can use.

    images: (B, C, H, W), which must not change. leaf: the tensor that entered the model. logits: (B, classes).
    is_used: whether a backward pass used it, which releases the graph.
    """

    images: Tensor
    leaf: Tensor
    logits: Tensor
    is_used: bool = False
    _version: int = field(init=False)

    def __post_init__(self) -> None:
        self._version = self.images._version

    def take(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the leaf and the logits if they are those of the rows x, else None. Can be called once."""
        is_same = x.data_ptr() == self.images.data_ptr() and x.shape == self.images.shape
        if not is_same or self.images._version != self._version:
            return None
        taken = self.leaf, self.logits
        self.is_used = True
        self.release()
        return taken

    def release(self) -> None:
        """Free the memory of the graph."""
        self.leaf, self.logits = self.images, self.logits.detach()
        self._version = -1  # of no tensor
