"""Find the linear layer that computes the single logit of a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from xplain.models.output_graph import SHAPE_OPERATIONS, operation_name
from xplain.models.output_reader import OutputReader
from xplain.models.two_class_layers import has_one_output


def find_last_linear(
    model: nn.Module, run: Callable[[Tensor], object], reader: OutputReader, images: Tensor, *, differentiate: bool
) -> OutputReader:
    """Return the reader with the linear layer or convolution whose output is the single logit or its negative, if there is one."""
    if reader.inverted is not None or (reader.final_call is not None and reader.final_call.is_selected):
        return reader
    nodes: dict[str, list[object]] = {}

    def record(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        nodes.setdefault(name, []).append(output.grad_fn if output.numel() == len(images) else None)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and has_one_output(module):
                stack.callback(module.register_forward_hook(partial(record, name)).remove)
        stack.enter_context(torch.set_grad_enabled(differentiate))
        inputs = images.detach().requires_grad_(differentiate)
        output = reader.run_without_activation(lambda: run(inputs))
    last = {id(seen[0]): name for name, seen in nodes.items() if len(seen) == 1 and seen[0] is not None}
    node, sign = reader.find(output).grad_fn, 1
    while node is not None and id(node) not in last:
        name = operation_name(node)
        if name not in SHAPE_OPERATIONS and name != "Neg":
            return reader
        sign = -sign if name == "Neg" else sign
        node = node.next_functions[0][0]
    return reader if node is None else replace(reader, linear=last[id(node)], linear_sign=sign)
