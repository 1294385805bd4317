"""Find the layers that have weights by tracing one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

# Layers that rescale the output of the layer before them, and count as part of it.
NORMALIZATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def find_weighted_layers(model: nn.Module, forward: Callable[[], Tensor]) -> list[tuple[str, ...]]:
    """Return the layers whose parameters the output depends on, in the order in which they start to run.

    A layer is a tuple of names: the module that holds the parameters, and the norms that run directly after it. Modules that
    their parent uses without calling them belong to the parent. Parameters that the output does not depend on (auxiliary heads)
    are left out.
    forward: one forward pass of the model; its output may have any shape.
    """
    start_order: dict[str, int] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            start_order.setdefault(name, len(start_order))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(make_hook(name)).remove)
        used = _find_used_parameters(model, forward)
    # a dictionary for its order: the sort below is stable
    holders = {name.rpartition(".")[0]: None for name, _ in model.named_parameters() if name in used}
    callers = {name: _nearest_called(name, start_order) for name in holders}
    layers: dict[str, tuple[str, ...]] = {}
    current = ""
    for name in sorted(holders, key=lambda holder: start_order[callers[holder]]):
        is_norm = isinstance(model.get_submodule(name), NORMALIZATIONS)
        if not is_norm or not layers:
            current = callers[name]
        layers[current] = (*layers.get(current, ()), name)
    return list(layers.values())


def _find_used_parameters(model: nn.Module, forward: Callable[[], Tensor]) -> set[str]:
    """Return the names of the parameters on which the output of ``forward`` depends."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    requires_grad = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_()
        with torch.enable_grad():
            total = forward().sum()
        if not total.requires_grad:
            return set()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(requires_grad[name])


def _nearest_called(name: str, start_order: Mapping[str, int]) -> str:
    """Return the name of the module if it was called, else of its nearest parent that was."""
    while name not in start_order:
        name = name.rpartition(".")[0]
    return name
