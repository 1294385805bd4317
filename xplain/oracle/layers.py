"""Activations of a layer and the score's gradients there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.errors import UsageError, did_you_mean
from xplain.models import Classifier
from xplain.models.arithmetic import float32_precision
from xplain.models.layer_trace import ModelRunner
from xplain.models.layers import find_weighted_layers
from xplain.models.layouts import Layout, Size, read_layout
from xplain.models.spatial_layers import LayoutFinder, find_layout, find_spatial_layer, list_layouts
from xplain.oracle.scores import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

# The layers of an inference copy that were found, and their layouts, by image size, requested layer and requested layout.
_known_layers: WeakKeyDictionary[Classifier, dict[tuple[Size, str, str], tuple[str, Layout]]] = WeakKeyDictionary()


@dataclass
class LayerResult:
    """Activations (B, K, h, w) of a layer, gradients (B, K, h, w) of the score there, and the layer's name."""

    activations: Tensor
    gradients: Tensor
    layer: str


def probe_layer(
    oracle: Oracle, x: Tensor, y: Tensor, layer: str = "auto", layout: str = "auto", *, differentiate: bool = True
) -> LayerResult:
    """Return the activations of a layer and the gradients of the score there.

    x: (B, C, H, W) images. y: (B,) target classes.
    layer: the name of a module, or ``auto``: the last module in execution order whose output is a map of the image (see
    ``find_spatial_layer``). A module that runs several times is read at its last run. Tokens and channels-last outputs
    are rearranged to (B, K, h, w) without class and register tokens.
    layout: the layout of the layer's output, see ``read_layout``; ``auto``: decided by module types and evidence.
    differentiate: if False, no backward pass runs, and the gradients have no channels.
    Raises UsageError if there is no such layer, if its output has no height and width or its layout is not known, or if the
    score does not depend on it.
    """
    model = oracle.inference_copy(fold=False, access="gradients" if differentiate else "layers")
    name, found = _find_layer(oracle, model, x, layer, layout)
    module = model.model.get_submodule(name)

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(differentiate), _record_output(module) as recorder:
            logits = oracle.forward(model, x.detach().requires_grad_(differentiate))
            output = recorder.output
            activations = found.to_map(output.detach())
            if not differentiate:
                oracle.count_rows(forwards=len(x))
                return activations, activations[:, :0]
            scores = compute_scores(logits, y, oracle.score, contrasts, oracle.output)
            (gradient,) = torch.autograd.grad(scores.sum(), output, allow_unused=True)
        if gradient is None:
            raise UsageError(f"the score does not depend on layer {name!r}", "use another layer")
        oracle.count_rows(forwards=len(x), backwards=len(x))
        return activations, found.to_map(gradient)

    oracle.count_image_rows(len(x), None, backwards=int(differentiate))
    activations, gradients = oracle.run_in_batches(
        run, x, y, oracle.against, kind="layer" if differentiate else "forward"
    )
    return LayerResult(activations, gradients, name)


def weighted_layers(oracle: Oracle, x: Tensor) -> list[tuple[str, ...]]:
    """Return the layers that have weights, in execution order, each as the names of its modules.

    x: (B, C, H, W) images, of which the first is used. See ``xplain.models.layers.find_weighted_layers``.
    """
    model = oracle.inference_copy(fold=False, access="layers")
    oracle.count_rows(checks=1)
    return find_weighted_layers(model.model, lambda: oracle.forward(model, x[:1]))


@dataclass(frozen=True)
class LayerInfo:
    """A layer that methods can explain. kind: the type of its module. is_auto: ``auto`` chooses it."""

    name: str
    kind: str
    layout: Layout
    is_auto: bool


def list_layers(oracle: Oracle, x: Tensor) -> list[LayerInfo]:
    """Return the layers whose output is a map of the image, in execution order, and which one ``auto`` is.

    x: (B, C, H, W) images, of which the first is used. Raises InputError if there are none.
    """
    model = oracle.inference_copy(fold=False, access="layers")
    finder = make_layout_finder(oracle, model, x)
    layouts = list_layouts(finder)
    auto, _ = find_spatial_layer(finder)
    modules = dict(model.model.named_modules())
    return [LayerInfo(name, type(modules[name]).__name__, layout, name == auto) for name, layout in layouts.items()]


@torch.no_grad()
def make_layout_finder(oracle: Oracle, model: Classifier, x: Tensor) -> LayoutFinder:
    """Return a finder for an inference copy and images with the shape of x (B, C, H, W). Its rows count as checks."""

    def forward(rows: Tensor) -> Tensor:
        oracle.count_rows(checks=len(rows))
        with torch.no_grad(), float32_precision("fp32", rows.device):
            return model(model.to_memory_format(rows))

    return LayoutFinder(ModelRunner(model.model, forward, oracle.run_in_batches), x)


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


def _find_layer(oracle: Oracle, model: Classifier, x: Tensor, name: str, layout: str) -> tuple[str, Layout]:
    """Return the name and the layout of a layer; ``auto`` is the last spatial one. Raises UsageError."""
    key = ((x.shape[-2], x.shape[-1]), name, layout)
    known = _known_layers.setdefault(model, {})
    if key in known:
        return known[key]
    stated = read_layout(layout)
    if name == "auto":
        known[key] = find_spatial_layer(make_layout_finder(oracle, model, x), stated)
        return known[key]
    names = [module_name for module_name, _ in model.model.named_modules() if module_name]
    if name not in names:
        raise UsageError(
            f"the model has no layer {name!r}", did_you_mean(name, names, "use a name from model.named_modules()")
        )
    known[key] = name, find_layout(make_layout_finder(oracle, model, x), name, stated)
    return known[key]
