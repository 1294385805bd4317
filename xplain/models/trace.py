"""Find the layers with weights, in the order in which they run, by watching one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

# They rescale what the layer before them made, and count as part of it.
NORMS = (
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


def weighted_layers(model: nn.Module, run: Callable[[], Tensor]) -> list[tuple[str, ...]]:
    """The layers on which the output depends, in the order in which they start to run.

    run: one forward of the model, to any output. A layer is the names of the modules that hold its parameters: one module
    and the norms that run right behind it. What its parent uses without calling it belongs to the parent, and parameters that
    the output does not depend on (auxiliary heads) to no layer.
    """
    started: dict[str, int] = {}  # name: when

    def note(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            started.setdefault(name, len(started))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(note(name)).remove)
        used = _used_parameters(model, run)
    holders = {name.rpartition(".")[0]: None for name, _ in model.named_parameters() if name in used}
    homes = {name: _nearest_started(name, started) for name in holders}
    layers: dict[str, tuple[str, ...]] = {}
    last = ""
    for name, home in sorted(homes.items(), key=lambda each: started[each[1]]):
        is_norm = isinstance(model.get_submodule(name), NORMS) and layers
        last = last if is_norm else home
        layers[last] = (*layers.get(last, ()), name)
    return list(layers.values())


def _used_parameters(model: nn.Module, run: Callable[[], Tensor]) -> set[str]:
    """Names of the parameters that the output of ``run`` depends on."""
    found = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    frozen = {name: each.requires_grad for name, each in found.items()}
    try:
        for each in found.values():
            each.requires_grad_()
        with torch.enable_grad():
            total = run().sum()
        gradients = torch.autograd.grad(total, list(found.values()), allow_unused=True) if total.requires_grad else ()
        return {name for name, gradient in zip(found, gradients, strict=False) if gradient is not None}
    finally:
        for name, each in found.items():
            each.requires_grad_(frozen[name])


def _nearest_started(name: str, started: Mapping[str, int]) -> str:
    """The module itself if it ran, else the nearest one above it that did."""
    while name not in started:
        name = name.rpartition(".")[0]
    return name
