"""The only caller of the model: forward passes, gradients, layers, attention and propagation."""

from xplain.oracle.oracle import Oracle

__all__ = ["Oracle"]
