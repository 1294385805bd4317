"""Find layers by watching one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from xplain.errors import InputError

# They resample or pass on what another layer found; the map of interest is the one that goes into them.
PASSING = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
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


def last_spatial_layer(model: nn.Module, run: Callable[[], object]) -> str:
    """The name of the last module to finish whose output is (B, K, h, w) with h, w > 1, made by no pooling layer.

    A container that hands on its last child's output counts as that output's layer, so ResNet gives ``layer4`` and VGG
    the last ReLU before the last pooling. Raises InputError when no module is spatial.
    """
    finished: list[tuple[str, Tensor, bool, bool]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
                made = not inputs or output is not inputs[0]  # an identity hands on another layer's output
                passing = isinstance(module, PASSING)
                finished.append((name, output, passing, passing and made))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(note(name)).remove)
        run()
    passed = {id(output) for _, output, _, resampled in finished if resampled}
    layers = [name for name, output, passing, _ in finished if not passing and id(output) not in passed]
    if not layers:
        raise InputError("no layer of the model has an output with height and width", "name one with --layer")
    return layers[-1]


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
