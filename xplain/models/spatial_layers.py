"""Find the layers whose output is a map of the image, and its layout: by module types first, then by evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError
from xplain.models.layer_trace import ModelRunner, Trace, TracedOutput, trace_outputs
from xplain.models.layout_evidence import Evidence, Responses, make_stimuli, place_map, place_tokens, project
from xplain.models.layouts import Layout, MapKind, Size, spatial_shape

MAX_CANDIDATES = 16  # layers to test at a time; a block of a transformer has about eight
MAX_WINDOWS = 4  # of MAX_CANDIDATES layers
MAX_REFERENCE = 4096  # positions of a convolution that serves as a reference
CHANNEL_DIMENSION: dict[MapKind, int] = {"channels-first": 1, "channels-last": 3}
CONTAINERS = (nn.Sequential, nn.ModuleList)
NAME_A_LAYER = 'choose a layer with --layer NAME (see "xplain list layers")'
NAME_A_LAYOUT = "choose another layer with --layer NAME, or state the layout with --layout HxW+PREFIX"


class LayoutFinder:
    """Find the layouts of the layers of a model for one image size.

    The first request for a layer whose layout module types do not decide runs the model on the stimuli, and records the responses of
    all layers that are selected.

    x: (B, C, H, W) images, of which the first is used.
    """

    def __init__(self, runner: ModelRunner, x: Tensor) -> None:
        self.runner = runner
        self.x = x[:1]
        self.trace: Trace = trace_outputs(runner, x)
        self._selected: list[TracedOutput] = []
        self._known: dict[str, Evidence] = {}
        self._usual: dict[int, Layout] = {}  # by number of tokens

    def select(self, outputs: Sequence[TracedOutput]) -> None:
        """Select the layers whose layouts will be requested."""
        self._selected = list(outputs)

    def evidence(self, traced: TracedOutput) -> Evidence:
        """Return the layout of a selected layer, or why there is none."""
        typed = traced.typed_layout
        if typed is not None:
            return Evidence(typed if min(typed.grid) > 1 else None)
        if not self.trace.is_possible(traced):
            return Evidence(None)
        if traced.name not in self._known:
            self._known[traced.name] = self._judge(traced)
        return self._known[traced.name]

    def _judge(self, traced: TracedOutput) -> Evidence:
        references, features = self._responses
        own = features[traced.name]
        if traced.output.ndim == 3:
            count = traced.output.shape[1]
            evidence = place_tokens(own[0], self.trace.size, references, self._usual.get(count))
            if evidence.layout is not None:
                self._usual.setdefault(count, evidence.layout)
            return evidence
        maps = dict(zip(traced.possible_kinds, own, strict=True))
        return place_map(maps, self.trace.size, references)

    @cached_property
    def _responses(self) -> tuple[dict[Size, Responses], dict[str, list[Tensor]]]:
        """The responses to the stimuli: of the last convolution of each grid, and of the selected layers without a known layout."""
        convolutions: dict[Size, TracedOutput] = {}
        others: list[tuple[TracedOutput, list[int]]] = []
        for traced in self.trace.last_runs():
            typed = traced.typed_layout
            if typed is not None and min(typed.grid) > 1 and typed.grid[0] * typed.grid[1] <= MAX_REFERENCE:
                convolutions[typed.grid] = traced
        for traced in {traced.name: traced for traced in self._selected}.values():
            if traced.typed_layout is None and self.trace.is_possible(traced):
                dimensions = (
                    [CHANNEL_DIMENSION[kind] for kind in traced.possible_kinds] if traced.output.ndim == 4 else [2]
                )
                others.append((traced, dimensions))
        requests = [(traced, [1]) for traced in convolutions.values()] + others
        stimuli = make_stimuli(self.trace.size, self.x.shape[1]).to(self.x)
        columns = iter(self.runner.in_batches(lambda rows: record_projections(self.runner, rows, requests), stimuli))
        references = {grid: Responses.of(next(columns).flatten(1, 2)) for grid in convolutions}
        features = {traced.name: [next(columns) for _ in dimensions] for traced, dimensions in others}
        return references, features


def record_projections(
    runner: ModelRunner, x: Tensor, requests: Sequence[tuple[TracedOutput, Sequence[int]]]
) -> tuple[Tensor, ...]:
    """Return the outputs of modules for images x, projected along each of their channel dimensions.

    An output that does not have one row per image, such as a table of position biases, gives zeros.
    """
    recorded: dict[str, list[Tensor]] = {}

    def make_hook(name: str, dimensions: Sequence[int]) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and len(output) == len(x) and output.ndim > max(dimensions):
                recorded[name] = [project(output, dimension).cpu() for dimension in dimensions]

        return hook

    with ExitStack() as hooks:
        for traced, dimensions in requests:
            hooks.callback(traced.module.register_forward_hook(make_hook(traced.name, dimensions)).remove)
        runner.forward(x)
    missing = torch.zeros(len(x), 2, 2, 1)
    return tuple(
        projection
        for traced, dimensions in requests
        for projection in recorded.get(
            traced.name, [missing[:, :, :, 0] if traced.output.ndim == 3 else missing] * len(dimensions)
        )
    )


def find_spatial_layer(finder: LayoutFinder, layout: Layout | None = None) -> tuple[str, Layout]:
    """Return the name and layout of the last non-pooling module to finish whose output is a map with h, w > 1.

    If a container returns the output of its last child, the container is selected, such as ``layer4`` for ResNet. For VGG, the
    last ReLU before the last pooling layer is selected. If the layout is decided by evidence, the last layer whose patches affect
    the logits is selected. In a ViT, only the class token affects the logits after the last attention block, so the norm before
    that block is selected.

    layout: the layout that the layer must have, or None.
    Raises InputError if no module has a spatial output, and if the positions of a later layer cannot be located in the image.
    """
    candidates = [traced for traced in finder.trace.last_runs() if traced.is_candidate]
    if layout is not None:
        candidates = [traced for traced in candidates if layout.fits(tuple(traced.output.shape))]
    if not candidates:
        if any(isinstance(module, torch.jit.ScriptModule) for module in finder.runner.model.modules()):
            raise InputError(
                "the layers of a TorchScript model cannot be observed",
                "use integrated-gradients, occlusion or rise, or pass the module itself",
            )
        what = "a spatial output (height and width)" if layout is None else f"the layout {layout}"
        raise InputError(
            f"no layer with {what} was found", "set a layer with --layer, or use integrated-gradients or rise"
        )
    last = candidates[-1]
    if layout is None and last.typed_layout is not None:
        return last.name, last.typed_layout
    windows = _windows(candidates)
    finder.select([traced for window in windows for traced in window])
    unknown: list[TracedOutput] = []  # later layers that depend on regions of the image, in an order that is not known
    fallback: tuple[str, Layout] | None = None
    for window in windows:
        placed = {traced: _layout_of(finder, traced, layout) for traced in reversed(window)}
        tested = [traced for traced in window if placed[traced] is not None or _has_unknown_order(finder, traced)]
        used = _find_used(finder, tested, placed) if tested else []
        for traced in reversed(used):
            found = placed[traced]
            if found is None:
                unknown.append(traced)
            elif all(_is_in_same_block(finder, traced, later) for later in unknown):
                return traced.name, found
            else:
                raise InputError(*_unknown_order(unknown[0]))
        for traced in reversed(tested):
            found = placed[traced]
            if fallback is None and found is not None:
                fallback = traced.name, found
    if unknown:
        raise InputError(*_unknown_order(unknown[0]))
    if fallback is not None:
        return fallback
    tried = ", ".join(dict.fromkeys(traced.name for traced in reversed(candidates[-3:])))
    raise InputError(
        f"no layer of the model has a known position for its outputs in the image (tried {tried})", NAME_A_LAYER
    )


def find_layout(finder: LayoutFinder, name: str, layout: Layout | None = None) -> Layout:
    """Return the layout of the last output of a module. layout: the layout that the user states, or None.

    Raises UsageError if the output has no height and width, or if its layout is not known.
    """
    traced = next((traced for traced in reversed(finder.trace.outputs) if traced.name == name), None)
    if traced is None:
        rows = finder.trace.rows.get(name)
        if rows is not None:
            raise UsageError(
                f"layer {name!r} returns {rows} rows per image, as attention in windows does", "use the block around it"
            )
        raise UsageError(f"layer {name!r} has no spatial output (height and width)", "use another layer")
    if layout is not None:
        if not layout.fits(tuple(traced.output.shape)):
            shape = tuple(traced.output.shape)
            raise UsageError(
                f"the output {shape} of layer {name!r} does not have the layout {layout}", "use another layout"
            )
        return _complete(layout, traced)
    finder.select([traced])
    evidence = finder.evidence(traced)
    if evidence.layout is not None:
        return evidence.layout
    if not evidence.moves:
        raise UsageError(f"layer {name!r} does not depend on the image", "use another layer")
    if not finder.trace.is_possible(traced) or traced.typed_layout is not None:
        raise UsageError(f"layer {name!r} has no spatial output (height and width)", "use another layer")
    raise UsageError(*_unknown_order(traced))


def list_layouts(finder: LayoutFinder) -> dict[str, Layout]:
    """Return the layouts of all layers whose layout is known, by name, in execution order."""
    outputs = finder.trace.last_runs()
    finder.select(outputs)
    evidence = {traced.name: finder.evidence(traced) for traced in outputs}
    return {name: found.layout for name, found in evidence.items() if found.layout is not None}


def _has_unknown_order(finder: LayoutFinder, traced: TracedOutput) -> bool:
    """Return whether tokens without a known layout depend on regions of the image, or are as many as positions of a convolution."""
    evidence = finder.evidence(traced)
    return evidence.moves and evidence.layout is None and (evidence.is_local or finder.trace.fits_known_grid(traced))


def _layout_of(finder: LayoutFinder, traced: TracedOutput, layout: Layout | None) -> Layout | None:
    return finder.evidence(traced).layout if layout is None else _complete(layout, traced)


def _complete(layout: Layout, traced: TracedOutput) -> Layout:
    """Return the layout with the grid of a four-dimensional output."""
    if layout.kind == "tokens":
        return layout
    return Layout(layout.kind, spatial_shape(layout.kind, tuple(traced.output.shape)))


def _windows(candidates: Sequence[TracedOutput]) -> list[Sequence[TracedOutput]]:
    """Return MAX_WINDOWS slices of MAX_CANDIDATES layers, the last layers first."""
    stops = range(len(candidates), 0, -MAX_CANDIDATES)
    return [candidates[max(stop - MAX_CANDIDATES, 0) : stop] for stop in stops][:MAX_WINDOWS]


def _find_used(
    finder: LayoutFinder, layers: Sequence[TracedOutput], layouts: dict[TracedOutput, Layout | None]
) -> list[TracedOutput]:
    """Return the layers on whose maps the logits depend.

    Row k of one batch tests layer k: its map, or its output if the layout is not known, is set to NaN, which spreads to everything
    that depends on it.
    """

    runs = Counter(traced.name for traced in finder.trace.outputs)

    def make_hook(row: int, name: str, layout: Layout | None) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            runs[name] -= 1
            if runs[name] > 0:  # a module that runs several times is read at its last run
                return output
            output = output.clone()
            poisoned = output[row : row + 1]
            (poisoned if layout is None else layout.to_map(poisoned)).fill_(torch.nan)
            return output

        return hook

    with ExitStack() as hooks:
        for row, layer in enumerate(layers):
            hooks.callback(layer.module.register_forward_hook(make_hook(row, layer.name, layouts[layer])).remove)
        logits = finder.runner.forward(finder.x.expand(len(layers), -1, -1, -1))
    is_used = logits.isnan().any(dim=1).tolist()
    return [layer for layer, layer_is_used in zip(layers, is_used, strict=True) if layer_is_used]


def _is_in_same_block(finder: LayoutFinder, layer: TracedOutput, later: TracedOutput) -> bool:
    """Return whether the later layer is in the block that holds the layer."""
    parent, dot, _ = layer.name.rpartition(".")
    is_block = bool(dot) and not isinstance(finder.runner.model.get_submodule(parent), CONTAINERS)
    return is_block and f"{later.name}.".startswith(f"{parent}.")


def _unknown_order(traced: TracedOutput) -> tuple[str, str]:
    """Return the message and the hint of an error about a layer whose positions follow no known order."""
    shape = tuple(traced.output.shape[1:])
    what = f"{shape[0]} tokens" if len(shape) == 2 else f"output of shape {shape}"
    return (
        f"the positions of layer {traced.name!r} in the image are not known: its {what} follow no known order",
        NAME_A_LAYOUT,
    )
