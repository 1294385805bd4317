"""Class vectors: the rows of the linear layer whose outputs are the logits."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xplain.core.errors import UsageError

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle


def find_class_vectors(oracle: Oracle, x: Tensor, option: str) -> Tensor:
    """Return the rows (classes, d) of the linear layer whose outputs are the logits of an image, in float64.

    x: images (B, C, H, W), of which the first one is run and counted as a check. option: names the user's option in the error.
    Raises UsageError if the logits are not the outputs of one linear layer.
    """
    model = oracle.inference_copy(fold=oracle.fold, access="layers")
    outputs: list[tuple[nn.Linear, Tensor]] = []

    def record(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        outputs.append((module, output))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(record).remove)
        stack.enter_context(torch.no_grad())
        logits = oracle.forward(model, x[:1])
    oracle.count_rows(checks=1)
    for module, output in reversed(outputs):
        if output.numel() == logits.numel() and torch.equal(output.reshape(logits.shape).to(logits.dtype), logits):
            return module.weight.detach().double()
    raise UsageError(
        f"{option} requires a network that ends in one linear layer, whose rows are compared",
        "use draw=top, draw=random or distances=FILE",
    )
