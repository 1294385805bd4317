"""Activations of layers and the score's gradients there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.errors import UsageError, did_you_mean
from xplain.core.types import Cost
from xplain.models import Classifier
from xplain.models.arithmetic import float32_precision
from xplain.models.layer_trace import ModelRunner
from xplain.models.layers import find_weighted_layers
from xplain.models.layouts import Layout, Size, read_layout
from xplain.models.spatial_layers import LayoutFinder, find_layout, find_spatial_layer, list_layouts
from xplain.oracle.scores import compute_scores
from xplain.oracle.shared_forward import ForwardPass, LayerOutput, SharedForward

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

# The layers of an inference copy that were found, and their layouts, by image size, requested layer and requested layout.
_known_layers: WeakKeyDictionary[Classifier, dict[tuple[Size, str, str], tuple[str, Layout]]] = WeakKeyDictionary()
SHOWN_NAMES = 4  # in the hint for an unknown layer


@dataclass
class LayerResult:
    """What a layer returned for a batch of images.

    activations: (B, K, h, w). gradients: (B, K, h, w) of the score. scores: (B,).
    layer: its name. layout: of its output. runs: how often it runs in a forward pass.
    """

    activations: Tensor
    gradients: Tensor
    scores: Tensor
    layer: str
    layout: Layout
    runs: int


def probe_layer(
    oracle: Oracle, x: Tensor, y: Tensor, layer: str = "auto", layout: str = "auto", *, differentiate: bool = True
) -> LayerResult:
    """Return the activations of one layer and the gradients of the score there, see ``probe_layers``."""
    return _probe(oracle, x, y, [layer], layout, differentiate=differentiate)[0]


def probe_layers(
    oracle: Oracle, x: Tensor, y: Tensor, layer: str = "auto", layout: str = "auto", *, differentiate: bool = True
) -> list[LayerResult]:
    """Return the activations of layers and the gradients of the score there, from one forward and one backward pass.

    x: (B, C, H, W) images. y: (B,) target classes.
    layer: the name of a module, or ``auto``: the last module in execution order whose output is a map of the image (see
    ``find_spatial_layer``); or several of them, separated by plus signs or commas. A module that runs several times is read at its
    last run. Tokens and channels-last outputs are rearranged to (B, K, h, w) without class and register tokens.
    layout: the layout of the layers' outputs, see ``read_layout``; ``auto``: decided by module types and evidence.
    differentiate: if False, no backward pass runs, and the gradients have no channels.
    Raises UsageError if there is no such layer or one is named twice, if an output has no height and width or its layout is not known,
    or if the score does not depend on it.
    """
    model = oracle.inference_copy(fold=False, access="gradients" if differentiate else "layers")
    names = split_layers(layer, [name for name, _ in model.model.named_modules()])
    return _probe(oracle, x, y, names, layout, differentiate=differentiate)


def split_layers(text: str, known: Collection[str] = ()) -> list[str]:
    """Return the names of layers in a text such as ``layer3+layer4``. known: the names of all layers, which may hold the separators."""
    return [text] if text in known else [name.strip() for name in re.split("[+,]", text)]


def _probe(
    oracle: Oracle, x: Tensor, y: Tensor, layers: Sequence[str], layout: str, *, differentiate: bool
) -> list[LayerResult]:
    """Return the results of several layers, see ``probe_layers``."""
    model = oracle.inference_copy(fold=False, access="gradients" if differentiate else "layers")
    found = [_find_layer(oracle, model, x, layer, layout) for layer in layers]
    names, layouts = [name for name, _ in found], [layout for _, layout in found]
    _check_distinct(names)
    runs: list[int] = []

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
        nonlocal runs
        taken = oracle.shared.take(x, folded=False, layers=names) if oracle.shared and differentiate else None
        with torch.set_grad_enabled(differentiate):
            _, logits, recorded = _run_and_record(oracle, model, x, names) if taken is None else taken
            outputs = [recorded[name].output for name in names]
            runs = [recorded[name].runs for name in names]
            activations = _arrange(outputs, layouts)
            scores = compute_scores(logits, y, oracle.score, contrasts, oracle.output)
            if not differentiate:
                oracle.count_rows(forwards=len(x))
                return scores, *activations, *(values[:, :0] for values in activations)
            gradients = torch.autograd.grad(scores.sum(), outputs, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is None:
                raise UsageError(f"the score does not depend on layer {name!r}", "use another layer")
        if taken is None:
            oracle.count_rows(forwards=len(x), backwards=len(x))
        else:  # progress does not count predictions
            oracle.cost = oracle.cost + Cost(forwards=len(x), backwards=len(x))
        return scores.detach(), *activations, *_arrange(gradients, layouts)

    oracle.count_image_rows(len(x), None, backwards=int(differentiate))
    scores, *maps = oracle.run_in_batches(run, x, y, oracle.against, kind="layer" if differentiate else "forward")
    count = len(names)
    return [LayerResult(maps[i], maps[count + i], scores, names[i], layouts[i], runs[i]) for i in range(count)]


def predict_with_layers(
    oracle: Oracle, x: Tensor, layer: str = "auto", layout: str = "auto"
) -> tuple[Tensor, SharedForward | None]:
    """Return the logits (B, classes), and the forward pass with the outputs of layers, as in ``Oracle.predict``.

    layer, layout: as in ``probe_layers``. Raises UsageError as that does.
    """
    model = oracle.inference_copy(fold=False, access="gradients")
    layers = split_layers(layer, [name for name, _ in model.model.named_modules()])
    names = [_find_layer(oracle, model, x, name, layout)[0] for name in layers]
    passes: list[SharedForward] = []

    def run(x: Tensor) -> tuple[Tensor]:
        with torch.enable_grad():
            forward_pass = _run_and_record(oracle, model, x, names)
        oracle.count_rows(checks=len(x))
        passes.append(SharedForward(x, False, forward_pass))
        return (forward_pass.logits.detach(),)

    logits = oracle.run_in_batches(run, x, kind="layer")[0]
    return logits, passes[0] if len(passes) == 1 else None


def _run_and_record(oracle: Oracle, model: Classifier, x: Tensor, names: Sequence[str]) -> ForwardPass:
    """Run the model on rows and record the outputs of layers, with the graph if gradients are enabled."""
    leaf = x.detach().requires_grad_(torch.is_grad_enabled())
    with _record_outputs(model, names) as recorders:
        logits = oracle.forward(model, leaf)
    outputs = [LayerOutput(recorder.output, recorder.runs) for recorder in recorders]
    return ForwardPass(leaf, logits, dict(zip(names, outputs, strict=True)))


def _arrange(outputs: Sequence[Tensor], layouts: Sequence[Layout]) -> list[Tensor]:
    """Return outputs, or gradients there, as maps (B, K, h, w) without gradients."""
    return [layout.to_map(output.detach()) for output, layout in zip(outputs, layouts, strict=True)]


def _check_distinct(names: Sequence[str]) -> None:
    """Raise UsageError if a layer is named twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"layer {name!r} is named {count} times", "name each layer once")


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
    """A forward hook that keeps the output of the module's last run, and counts the runs."""

    output: Tensor
    runs = 0

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        self.output = output
        self.runs += 1
        return output.clone()  # later operations may modify it in place


@contextmanager
def _record_outputs(model: Classifier, names: Sequence[str]) -> Iterator[list[_OutputRecorder]]:
    """Record the outputs of modules in this context."""
    recorders = [_OutputRecorder() for _ in names]
    with ExitStack() as hooks:
        for name, recorder in zip(names, recorders, strict=True):
            hooks.callback(model.model.get_submodule(name).register_forward_hook(recorder).remove)
        yield recorders


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
            f"the model has no layer {name!r}", did_you_mean(name, names, _describe_names(oracle, model, x))
        )
    known[key] = name, find_layout(make_layout_finder(oracle, model, x), name, stated)
    return known[key]


def _describe_names(oracle: Oracle, model: Classifier, x: Tensor) -> str:
    """Return a hint with the last layers of spatial outputs, and the way to all of them."""
    names = list(list_layouts(make_layout_finder(oracle, model, x)))[-SHOWN_NAMES:]
    if not names:
        return "no layer has spatial outputs; use a method without layers, such as integrated-gradients"
    return f'use a name such as {" or ".join(map(repr, names))}; "xplain list layers" lists all'
