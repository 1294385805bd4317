"""Trace a forward pass: the outputs of modules that can be maps of the image, and their layout according to module types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xplain.models.layout_evidence import MAX_PREFIX, token_grids
from xplain.models.layout_rules import ChannelAxis, ModuleRun, find_channel_axes
from xplain.models.layouts import MAP_KINDS, Layout, MapKind, Size, spatial_shape

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
ATTENTION_FUNCTIONS = (
    torch.softmax,
    Tensor.softmax,
    nn.functional.softmax,
    nn.functional.scaled_dot_product_attention,
    nn.functional.multi_head_attention_forward,
)
ATTENTION_NAMES = ("attention", "attn")  # in the name of a module's class


@dataclass(frozen=True, eq=False)
class ModelRunner:
    """How to run a model.

    model: the network, whose modules are hooked.
    forward: images (rows, C, H, W) -> logits (rows, classes).
    in_batches: run a function of images, to a tuple of tensors (rows, ...), on batches of rows, and concatenate its outputs.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    in_batches: Callable[[Callable[[Tensor], tuple[Tensor, ...]], Tensor], list[Tensor]]


@dataclass(eq=False)
class TracedOutput(ModuleRun):
    """The output of a module that can be a map of the image.

    is_pooled: a layer of PASSTHROUGH computed it, so that a container that returns it is no candidate either.
    is_candidate: ``find_spatial_layer`` may choose it.
    callers: the names of the modules that were running.
    axis: the channel dimension of a four-dimensional output, as module types tell.
    """

    is_pooled: bool = False
    is_candidate: bool = False
    callers: tuple[str, ...] = ()
    axis: ChannelAxis = "unknown"

    @property
    def typed_layout(self) -> Layout | None:
        """The layout of the map of a convolution, which needs no evidence; None for other outputs."""
        if self.output.ndim == 4 and self.axis == "first":
            return Layout("channels-first", spatial_shape("channels-first", self.output.shape))
        return None

    @property
    def possible_kinds(self) -> list[MapKind]:
        """The kinds of layout that a four-dimensional output can have."""
        kinds = [kind for kind in MAP_KINDS if self.axis == "unknown" or kind == f"channels-{self.axis}"]
        return [kind for kind in kinds if min(spatial_shape(kind, self.output.shape)) > 1]


@dataclass(eq=False)
class Trace:
    """One forward pass of one image.

    outputs: the three- and four-dimensional outputs of modules, in the order in which the modules finish.
    rows: the number of rows per image of modules that have several, such as windows of attention.
    """

    outputs: list[TracedOutput]
    size: Size
    rows: dict[str, int]

    def last_runs(self) -> list[TracedOutput]:
        """Return the last output of each module, in execution order."""
        last = {traced.name: traced for traced in self.outputs}
        return [traced for traced in self.outputs if last[traced.name] is traced]

    @cached_property
    def known_grids(self) -> set[Size]:
        """The grids of the maps of convolutions."""
        layouts = [traced.typed_layout for traced in self.outputs]
        return {layout.grid for layout in layouts if layout is not None and min(layout.grid) > 1}

    def is_possible(self, traced: TracedOutput) -> bool:
        """Return whether the shape of an output allows a map of the image."""
        if traced.output.ndim == 4:
            return bool(traced.possible_kinds)
        return self.fits_known_grid(traced) or bool(token_grids(traced.output.shape[1], self.size))

    def fits_known_grid(self, traced: TracedOutput) -> bool:
        """Return whether there are as many tokens as positions of a convolution, and at most MAX_PREFIX more."""
        count = traced.output.shape[1]
        return traced.output.ndim == 3 and any(0 <= count - h * w <= MAX_PREFIX for h, w in self.known_grids)


def trace_outputs(runner: ModelRunner, x: Tensor) -> Trace:
    """Run the model on the first image of x (B, C, H, W) and return the outputs of its modules."""
    runs: list[TracedOutput] = []
    rows: dict[str, int] = {}
    stack = [""]
    attentions: set[str] = set()

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: stack.append(name)

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            stack.pop()
            if not isinstance(output, Tensor) or output.ndim not in (3, 4) or not output.is_floating_point():
                return
            if len(output) != 1:
                rows[name] = len(output)
                return
            first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            is_passthrough = isinstance(module, PASSTHROUGH)
            is_new = output is not first  # an identity returns the output of another layer
            is_candidate = not is_passthrough and not isinstance(module, BLOCK_PARTS)
            runs.append(
                TracedOutput(name, module, output, first, is_passthrough and is_new, is_candidate, tuple(stack))
            )

        return hook

    with ExitStack() as hooks:
        for name, module in runner.model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
                hooks.callback(module.register_forward_hook(leave(name)).remove)
        with _AttentionFinder(stack, attentions):
            runner.forward(x[:1])
    modules = dict(runner.model.named_modules())
    attentions = {name for name in attentions if _is_named_attention(modules[name])}
    for traced, axis in zip(runs, find_channel_axes(runs), strict=True):
        traced.axis = axis
        traced.is_candidate &= attentions.isdisjoint(traced.callers)
    trace = Trace(runs, (x.shape[-2], x.shape[-1]), rows)
    _select_candidates(trace)
    return trace


class _AttentionFinder(TorchFunctionMode):
    """Record the attention modules: those named attention that compute a softmax of weights. Layers inside them are their parts."""

    def __init__(self, stack: Sequence[str], names: set[str]) -> None:
        super().__init__()
        self.stack, self.names = stack, names

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in ATTENTION_FUNCTIONS and not (isinstance(output, Tensor) and output.ndim < 3):
            self.names.add(self.stack[-1])
        return output


def _is_named_attention(module: nn.Module) -> bool:
    return any(word in type(module).__name__.lower() for word in ATTENTION_NAMES)


def _select_candidates(trace: Trace) -> None:
    """Deselect layers that cannot be maps, and containers that return the output of a pooling layer."""
    pooled = {id(traced.output) for traced in trace.outputs if traced.is_pooled}
    for traced in trace.outputs:
        traced.is_candidate &= id(traced.output) not in pooled and trace.is_possible(traced)
