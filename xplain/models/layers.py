"""Find the layers whose output is a map of the image, by watching one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError

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
PARTS = (nn.Linear, nn.Softmax)  # of attention and of blocks: queries, keys, weights; no map of what was found
MOST_PREFIX = 16  # class and register tokens before the patches
MOST_TRIED = 16  # layers of tokens; a transformer's block has about eight
Run = Callable[[int], Tensor]
Size = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where an output keeps its map: (B, K, h, w), (B, h, w, K), or the tokens (B, prefix + h w, K), row by row."""

    kind: Literal["channels-first", "channels-last", "tokens"] = "channels-first"
    grid: Size = (0, 0)
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens there are, prefix and patches."""
        return self.prefix + self.grid[0] * self.grid[1]

    def to_map(self, output: Tensor) -> Tensor:
        """(B, K, h, w)."""
        if self.kind == "channels-first":
            return output
        if self.kind == "channels-last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].mT.unflatten(2, self.grid)


@dataclass(frozen=True, eq=False)
class TracedOutput:
    """An output of the forward with its layout. passing: made by pooling, or handed on; part: no map to choose unasked."""

    name: str
    output: Tensor
    layout: Layout
    passing: bool
    resampled: bool
    part: bool


def find_last_spatial_layer(model: nn.Module, run: Run, size: Size) -> tuple[str, Layout]:
    """The last module to finish whose output is a map with h, w > 1, made by no pooling layer, and its layout.

    A container that hands on its last child's output counts as that output's layer, so ResNet gives ``layer4`` and VGG
    the last ReLU before the last pooling. Where the last map is made of tokens, it is the last one whose patches the logits
    still depend on: after the last attention they depend on the class token alone, so a ViT gives the norm before it.

    run: rows -> (rows, classes), the forward of that many copies of one image. size: its height and width in pixels.
    Raises InputError when no module is spatial.
    """
    layers = _choices(trace_outputs(model, run, size)[1])
    if not layers:
        raise InputError("no layer of the model has an output with height and width", "name one with --layer")
    found = layers[-1]
    if found.layout.kind == "tokens":
        found = _last_read(model, run, layers[-MOST_TRIED:])
    return found.name, found.layout


def _last_read(model: nn.Module, run: Run, layers: Sequence[TracedOutput]) -> TracedOutput:
    """The last layer on whose map the logits depend: in row k the map of layer k is not a number, and so is what depends on it."""

    def poison(row: int, layout: Layout) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            output = output.clone()
            layout.to_map(output[row : row + 1]).fill_(torch.nan)
            return output

        return hook

    with ExitStack() as stack:
        for row, each in enumerate(layers):
            module = model.get_submodule(each.name)
            stack.callback(module.register_forward_hook(poison(row, each.layout)).remove)
        read = run(len(layers)).isnan().any(dim=1).tolist()
    return next((each for each, used in zip(reversed(layers), reversed(read), strict=True) if used), layers[-1])


def find_layout(model: nn.Module, run: Run, size: Size, name: str) -> Layout | None:
    """The layout of a named module's last output; None where it has no height and width."""
    seen = trace_outputs(model, run, size)[1]
    return next((each.layout for each in reversed(seen) if each.name == name), None)


def trace_outputs(model: nn.Module, run: Run, size: Size) -> tuple[Tensor, list[TracedOutput]]:
    """The logits of one image and, in the order in which modules finish, every output that is a map."""
    seen: list[TracedOutput] = []
    grids: list[Size] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            layout = _layout(module, output, size, grids)
            if layout is None or not isinstance(output, Tensor):
                return
            if output.ndim == 4:
                grids.append(layout.grid)
            made = not inputs or output is not inputs[0]  # an identity hands on another layer's output
            passing = isinstance(module, PASSING)
            seen.append(TracedOutput(name, output, layout, passing, passing and made, isinstance(module, PARTS)))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(note(name)).remove)
        return run(1), seen


def _choices(seen: Sequence[TracedOutput]) -> list[TracedOutput]:
    passed = {id(each.output) for each in seen if each.resampled}
    return [each for each in seen if not each.passing and not each.part and id(each.output) not in passed]


def _layout(module: nn.Module, output: object, size: Size, grids: Sequence[Size]) -> Layout | None:
    """How an output of one image is laid out, given the grids that the maps before had; None: it is no map."""
    if not isinstance(output, Tensor) or len(output) != 1:  # windows are rows of their own
        return None
    if output.ndim == 3:
        return _token_layout(output.shape[1], size, grids)
    if output.ndim != 4:
        return None
    first = Layout("channels-first", (output.shape[2], output.shape[3]))
    last = Layout("channels-last", (output.shape[1], output.shape[2]))
    normalised = getattr(module, "normalized_shape", None)
    if isinstance(module, nn.Linear) or (normalised is not None and tuple(normalised) != (output.shape[1],)):
        return last if _resembles(last.grid, size) else None
    if not _resembles(first.grid, size) and _resembles(last.grid, size):
        return last
    return first if min(first.grid) > 1 else None


def _token_layout(count: int, size: Size, grids: Sequence[Size]) -> Layout | None:
    """Tokens: the latest grid that leaves a few over; where no grid was seen, one of square patches of the image."""
    for grid in reversed(grids):
        if 0 <= count - grid[0] * grid[1] <= MOST_PREFIX and min(grid) > 1:
            return Layout("tokens", grid, count - grid[0] * grid[1])
    for prefix in range(0 if grids else min(count, MOST_PREFIX + 1)):
        side = round(((count - prefix) * size[0] / size[1]) ** 0.5)
        grid = (side, (count - prefix) // max(side, 1))
        if min(grid) > 1 and grid[0] * grid[1] == count - prefix and grid[0] * size[1] == grid[1] * size[0]:
            return Layout("tokens", grid, prefix)
    return None


def _resembles(grid: Size, size: Size) -> bool:
    """The image made smaller, its sides rounded."""
    height, width = grid
    near = abs(height * size[1] - width * size[0]) <= max(size)
    return min(grid) > 1 and height <= size[0] and width <= size[1] and near


# They rescale what the layer before them made, and count as part of it.
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


def find_weighted_layers(model: nn.Module, run: Callable[[], Tensor]) -> list[tuple[str, ...]]:
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
        is_norm = isinstance(model.get_submodule(name), NORMALIZATIONS) and layers
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
