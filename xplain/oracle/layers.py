"""Activations of a layer and the score's gradients there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

import xplain.models.layers as model_layers
from xplain.core.errors import UsageError, did_you_mean
from xplain.models import Classifier
from xplain.models.layers import Layout
from xplain.oracle.targets import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

# The last spatial layer of an inference copy and its layout, by image size.
_last_spatial_layers: WeakKeyDictionary[Classifier, dict[tuple[int, int], tuple[str, Layout]]] = WeakKeyDictionary()


@dataclass
class LayerResult:
    """Activations (B, K, h, w) of a layer, gradients (B, K, h, w) of the score there, and the layer's name."""

    activations: Tensor
    gradients: Tensor
    layer: str


def probe_layer(
    oracle: Oracle, x: Tensor, y: Tensor, layer: str = "auto", *, differentiate: bool = True
) -> LayerResult:
    """Return the activations of a layer and the gradients of the score there.

    x: (B, C, H, W) images. y: (B,) target classes.
    layer: the name of a module, or ``auto``: the last module in execution order whose output is a map of the image (see
    ``find_last_spatial_layer``). A module that runs several times is read at its last run. Tokens and channels-last outputs
    are rearranged to (B, K, h, w) without class and register tokens.
    differentiate: if False, no backward pass runs, and the gradients have no channels.
    Raises UsageError if there is no such layer, if its output has no height and width, or if the score does not depend
    on it.
    """
    model = oracle.inference_copy(fold=False, access="gradients" if differentiate else "layers")
    name, layout = _find_layer(oracle, model, x, layer)
    module = model.model.get_submodule(name)

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(differentiate), _record_output(module) as recorder:
            logits = oracle.forward(model, x.detach().requires_grad_(differentiate))
            output = recorder.output
            activations = layout.to_map(output.detach())
            if not differentiate:
                oracle.count_rows(forwards=len(x))
                return activations, activations[:, :0]
            scores = compute_scores(logits, y, oracle.score, contrasts)
            (gradient,) = torch.autograd.grad(scores.sum(), output, allow_unused=True)
        if gradient is None:
            raise UsageError(f"the score does not depend on layer {name!r}", "use another layer")
        oracle.count_rows(forwards=len(x), backwards=len(x))
        return activations, layout.to_map(gradient)

    oracle.count_image_rows(len(x), None, backwards=int(differentiate))
    activations, gradients = oracle.run_in_batches(run, x, y, oracle.against)
    return LayerResult(activations, gradients, name)


def weighted_layers(oracle: Oracle, x: Tensor) -> list[tuple[str, ...]]:
    """Return the layers that have weights, in execution order, each as the names of its modules.

    x: (B, C, H, W) images, of which the first is used. See ``xplain.models.layers.find_weighted_layers``.
    """
    model = oracle.inference_copy(fold=False, access="layers")
    oracle.count_rows(checks=1)
    return model_layers.find_weighted_layers(model.model, lambda: oracle.forward(model, x[:1]))


@dataclass(frozen=True)
class LayerInfo:
    """A layer that methods can explain. kind: the type of its module. grid: height and width of its output."""

    name: str
    kind: str
    grid: tuple[int, int]
    is_auto: bool


def list_layers(oracle: Oracle, x: Tensor) -> list[LayerInfo]:
    """Return the layers whose output has a height and a width, in execution order, and which one ``auto`` is.

    x: (B, C, H, W) images, of which the first is used. Raises InputError if there are none.
    """
    model = oracle.inference_copy(fold=False, access="layers")
    auto, _ = _find_layer(oracle, model, x, "auto")
    modules = dict(model.model.named_modules())

    def run(rows: int) -> Tensor:
        with torch.no_grad():
            return oracle.forward(model, x[:1].expand(rows, -1, -1, -1))

    _, outputs = model_layers.trace_outputs(model.model, run, (x.shape[-2], x.shape[-1]))
    last = {
        traced.name: _grid_of(traced) for traced in outputs
    }  # a module that runs several times is read at its last run
    return [LayerInfo(name, type(modules[name]).__name__, grid, name == auto) for name, grid in last.items()]


def _grid_of(traced: model_layers.TracedOutput) -> tuple[int, int]:
    height, width = traced.layout.to_map(traced.output).shape[-2:]
    return height, width


class _OutputRecorder:
    """A forward hook that keeps the output of the module's last run."""

    output: Tensor

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        self.output = output
        return output.clone()  # later operations may modify it in place


@contextmanager
def _record_output(module: nn.Module) -> Iterator[_OutputRecorder]:
    """Record the output of ``module`` in this context."""
    recorder = _OutputRecorder()
    handle = module.register_forward_hook(recorder)
    try:
        yield recorder
    finally:
        handle.remove()


def _find_layer(oracle: Oracle, model: Classifier, x: Tensor, name: str) -> tuple[str, Layout]:
    """Return the name and the layout of a layer; ``auto`` is the last spatial one. Raises UsageError."""
    size = (x.shape[-2], x.shape[-1])

    def run(rows: int) -> Tensor:
        oracle.count_rows(checks=rows)
        with torch.no_grad():
            return oracle.forward(model, x[:1].expand(rows, -1, -1, -1))

    if name == "auto":
        known = _last_spatial_layers.setdefault(model, {})
        if size not in known:
            known[size] = model_layers.find_last_spatial_layer(model.model, run, size)
        return known[size]
    names = [module_name for module_name, _ in model.model.named_modules() if module_name]
    if name not in names:
        raise UsageError(
            f"the model has no layer {name!r}", did_you_mean(name, names, "use a name from model.named_modules()")
        )
    layout = model_layers.find_layout(model.model, run, size, name)
    if layout is None:
        raise UsageError(f"layer {name!r} has no spatial output (height and width)", "use another layer")
    return name, layout
