"""The only caller of the model: logits, gradients, layers, attention and propagation rules."""

from xplain.oracle.oracle import Oracle

__all__ = ["Oracle"]
