"""A classifier's working copy: evaluation mode, frozen, nothing in place, channels last, batch norms folded.

Every change is checked on a probe batch: when the output moves, the change is taken back. The user's own model is never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.errors import InputError
from xplain.models.classifier import Classifier

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def prepare(classifier: Classifier, *, fold: bool = True) -> Classifier:
    """A working copy that gives the same logits, faster.

    fold: put batch norms into the convolutions before them. Leave it off to look at activations by layer name.
    """
    ready = copy.deepcopy(classifier).eval().requires_grad_(False)
    for module in ready.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    if ready.dtype not in TOLERANCE:
        return ready
    # a fixed image: neither constant nor symmetric
    size = ready.size
    probe = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0), dtype=ready.dtype).to(ready.device)
    with torch.no_grad():
        try:
            expected = ready(probe)
        except (RuntimeError, ValueError, InputError):
            return ready  # an input of another shape: run it as it is
        if fold:
            folded = copy.deepcopy(ready)
            if _fold_norms(folded, probe) and _agrees(folded(probe), expected):
                ready = folded
        if any(isinstance(module, nn.Conv2d) for module in ready.modules()):
            last = copy.deepcopy(ready).to(memory_format=torch.channels_last)
            if _agrees(last(probe.contiguous(memory_format=torch.channels_last)), expected):
                ready = last
    return ready


def _agrees(actual: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().max().clamp(min=1)
    return bool((actual - expected).abs().max() <= TOLERANCE[expected.dtype] * scale)


def _fold_norms(model: nn.Module, probe: Tensor) -> int:
    """Fold every batch norm whose input is, in execution, a convolution's output and nothing else's. Returns how many."""
    pairs = _observe_pairs(model, probe)
    for conv, norm in pairs:
        _fold(conv, norm)
    replaced = {id(norm) for _, norm in pairs}
    for parent in model.modules():
        for name, child in parent.named_children():
            if id(child) in replaced:
                setattr(parent, name, nn.Identity())
    return len(pairs)


def _observe_pairs(model: nn.Module, probe: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """(convolution, norm) pairs in which both run once and the norm is given the convolution's output object."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept alive, so that its id stays its own
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def after(module: nn.Module, _: object, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        made[id(output)] = (module, output)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, CONVOLUTIONS):
                stack.callback(module.register_forward_hook(after).remove)
            elif isinstance(module, NORMS) and module.running_var is not None:
                stack.callback(module.register_forward_pre_hook(before).remove)
        model(probe)
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _fold(conv: Any, norm: Any) -> None:
    """Scale and shift the convolution by the norm's evaluation statistics, computed in float64."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    offset = (0 if norm.bias is None else norm.bias.double()) - mean * scale
    if conv.bias is not None:
        offset = offset + conv.bias.double() * scale
    kernel = conv.weight.double() * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(kernel.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(offset.to(dtype), requires_grad=False)


_Version = tuple[tuple[int, int], ...]
_COPIES: WeakKeyDictionary[Classifier, dict[bool, tuple[_Version, Classifier]]] = WeakKeyDictionary()


def working_copy(classifier: Classifier, *, fold: bool = True) -> Classifier:
    """The working copy of ``classifier`` as it is now: made when first needed, and anew when parameters have changed."""
    version = tuple((each.data_ptr(), each._version) for each in classifier.state_dict(keep_vars=True).values())
    copies = _COPIES.setdefault(classifier, {})
    if fold not in copies or copies[fold][0] != version:
        copies[fold] = (version, prepare(classifier, fold=fold))
    return copies[fold][1]


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Allow TF32 only when asked, on CUDA; restored on leaving."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
