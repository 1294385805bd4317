"""Find spatial layers, their memory layout and layers with weights by tracing one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError

# Layers that resample or return the map of another layer. That other layer is the one of interest.
PASSTHROUGH = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
# Parts of attention and of blocks (queries, keys, weights). Their outputs are not maps of features.
BLOCK_PARTS = (nn.Linear, nn.Softmax)
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
MAX_PREFIX = 16  # class and register tokens before the patches
MAX_CANDIDATES = 16  # layers of tokens to test; a block of a transformer has about eight

Forward = Callable[[int], Tensor]  # number of rows -> logits of that many copies of one image
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Layout:
    """Memory layout of a map in an output.

    kind: (B, K, h, w), (B, h, w, K), or tokens (B, prefix + h w, K) in row-major order.
    grid: (h, w). prefix: the number of class and register tokens before the patches.
    """

    kind: Literal["channels-first", "channels-last", "tokens"] = "channels-first"
    grid: Size = (0, 0)
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens, prefix and patches."""
        return self.prefix + self.grid[0] * self.grid[1]

    def to_map(self, output: Tensor) -> Tensor:
        """Return an output of this layout as a map (B, K, h, w)."""
        if self.kind == "channels-first":
            return output
        if self.kind == "channels-last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].mT.unflatten(2, self.grid)


@dataclass(frozen=True, eq=False)
class TracedOutput:
    """An output of a module in the forward pass that is a map.

    is_pooled: a layer of PASSTHROUGH computed it, so that a container that returns it is no candidate either.
    is_candidate: the module's type allows ``find_last_spatial_layer`` to choose it.
    """

    name: str
    output: Tensor
    layout: Layout
    is_pooled: bool
    is_candidate: bool


def find_last_spatial_layer(model: nn.Module, forward: Forward, size: Size) -> tuple[str, Layout]:
    """Return the name and layout of the last non-pooling module to finish whose output is a spatial map with h, w > 1.

    If a container returns the output of its last child, the container is selected, such as ``layer4`` for ResNet. For VGG, the
    last ReLU before the last pooling layer is selected. For token maps, the function selects the last layer whose patch tokens
    affect the logits. In a ViT, only the class token affects the logits after the last attention block, so the norm before that
    block is selected.

    forward: function ``forward(n)`` that returns the logits (n, classes) for n copies of one image.
    size: height and width of the image in pixels.
    Raises InputError if no module has a spatial output.
    """
    layers = _select_candidates(trace_outputs(model, forward, size)[1])
    if not layers:
        raise InputError("no layer with a spatial output (height and width) was found", "set a layer with --layer")
    last = layers[-1]
    if last.layout.kind == "tokens":
        last = _find_last_used(model, forward, layers[-MAX_CANDIDATES:])
    return last.name, last.layout


def find_layout(model: nn.Module, forward: Forward, size: Size, name: str) -> Layout | None:
    """Return the layout of the last output of a module, or None if it has no height and width.

    forward, size: as in ``find_last_spatial_layer``. name: of the module.
    """
    layouts = [traced.layout for traced in trace_outputs(model, forward, size)[1] if traced.name == name]
    return layouts[-1] if layouts else None


def trace_outputs(model: nn.Module, forward: Forward, size: Size) -> tuple[Tensor, list[TracedOutput]]:
    """Return the logits of one image, and all outputs that are maps in the order in which the modules finish.

    forward, size: as in ``find_last_spatial_layer``.
    """
    traced: list[TracedOutput] = []
    grids: list[Size] = []

    def make_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            layout = _detect_layout(module, output, size, grids)
            if layout is None or not isinstance(output, Tensor):
                return
            if output.ndim == 4:
                grids.append(layout.grid)
            is_passthrough = isinstance(module, PASSTHROUGH)
            is_new = not inputs or output is not inputs[0]  # an identity returns the output of another layer
            is_candidate = not is_passthrough and not isinstance(module, BLOCK_PARTS)
            traced.append(TracedOutput(name, output, layout, is_passthrough and is_new, is_candidate))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(make_hook(name)).remove)
        return forward(1), traced


def _select_candidates(traced: Sequence[TracedOutput]) -> list[TracedOutput]:
    """Return the candidates, without containers that return the output of a pooling layer."""
    pooled = {id(output.output) for output in traced if output.is_pooled}
    return [output for output in traced if output.is_candidate and id(output.output) not in pooled]


def _find_last_used(model: nn.Module, forward: Forward, layers: Sequence[TracedOutput]) -> TracedOutput:
    """Return the last layer on whose map the logits depend.

    Row k of one batch tests layer k: its map is set to NaN, which spreads to everything that depends on it.
    """

    def make_hook(row: int, layout: Layout) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            output = output.clone()
            layout.to_map(output[row : row + 1]).fill_(torch.nan)
            return output

        return hook

    with ExitStack() as stack:
        for row, layer in enumerate(layers):
            module = model.get_submodule(layer.name)
            stack.callback(module.register_forward_hook(make_hook(row, layer.layout)).remove)
        is_used = forward(len(layers)).isnan().any(dim=1).tolist()
    used = [layer for layer, layer_is_used in zip(layers, is_used, strict=True) if layer_is_used]
    return used[-1] if used else layers[-1]


def _detect_layout(module: nn.Module, output: object, size: Size, grids: Sequence[Size]) -> Layout | None:
    """Return the layout of an output for one image, or None if it is not a map.

    grids: of the four-dimensional maps before it.
    """
    if not isinstance(output, Tensor) or len(output) != 1:  # attention windows are rows of the batch
        return None
    if output.ndim == 3:
        return _detect_token_layout(output.shape[1], size, grids)
    if output.ndim != 4:
        return None
    first = Layout("channels-first", (output.shape[2], output.shape[3]))
    last = Layout("channels-last", (output.shape[1], output.shape[2]))
    normalized_shape = getattr(module, "normalized_shape", None)
    normalizes_last = normalized_shape is not None and tuple(normalized_shape) != (output.shape[1],)
    if isinstance(module, nn.Linear) or normalizes_last:
        return last if _has_proportions(last.grid, size) else None
    if not _has_proportions(first.grid, size) and _has_proportions(last.grid, size):
        return last
    return first if min(first.grid) > 1 else None


def _detect_token_layout(count: int, size: Size, grids: Sequence[Size]) -> Layout | None:
    """Return the layout of ``count`` tokens, or None if they are not a map.

    Their grid is the latest of ``grids`` that leaves at most MAX_PREFIX tokens over. If there are no grids, it is one of square
    patches of the image.
    """
    for grid in reversed(grids):
        prefix = count - grid[0] * grid[1]
        if 0 <= prefix <= MAX_PREFIX and min(grid) > 1:
            return Layout("tokens", grid, prefix)
    if grids:
        return None
    for prefix in range(min(count, MAX_PREFIX + 1)):
        patches = count - prefix
        height = round((patches * size[0] / size[1]) ** 0.5)
        grid = (height, patches // max(height, 1))
        if min(grid) > 1 and grid[0] * grid[1] == patches and grid[0] * size[1] == grid[1] * size[0]:
            return Layout("tokens", grid, prefix)
    return None


def _has_proportions(grid: Size, size: Size) -> bool:
    """Whether the grid has the proportions of the image, up to rounding, and is not larger."""
    height, width = grid
    is_proportional = abs(height * size[1] - width * size[0]) <= max(size)
    return min(grid) > 1 and height <= size[0] and width <= size[1] and is_proportional


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
