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
import torch.nn.functional as F
from torch import Tensor, nn

from xplain.core.errors import device_error
from xplain.models.classifier import Classifier

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def optimize_for_inference(classifier: Classifier, *, fold: bool = True) -> Classifier:
    """A working copy that gives the same logits, faster.

    fold: put batch norms into the convolutions before them. Leave it off to look at activations by layer name.
    """
    ready = copy_classifier(classifier).eval().requires_grad_(False)
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
        except Exception as error:
            if device_error(error):
                raise
            return ready  # it wants an input of another shape, and may say so by any error: run it as it is
        if fold:
            ready = _if_it_agrees(_folded(ready, probe), ready, probe, expected)
        else:
            fix_batch_norms(ready)
        if any(isinstance(module, nn.Conv2d) for module in ready.modules()):
            ready = _if_it_agrees(_channels_last(ready), ready, probe, expected)
    return ready


def copy_classifier(classifier: Classifier) -> Classifier:
    """A deep copy; tensors that a forward computed and left in a module (weight norm does) are copied by value."""
    memo = {
        id(value): value.detach().clone()
        for module in classifier.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    with torch.no_grad():  # a script's parameters are copied as other tensors are, and would not be leaves
        return copy.deepcopy(classifier, memo)


def _if_it_agrees(changed: Classifier, ready: Classifier, probe: Tensor, expected: Tensor) -> Classifier:
    """``changed`` if it gives the same logits, measured by their spread; else ``ready``."""
    try:
        actual = changed(changed.to_memory_format(probe))
    except RuntimeError as error:
        if device_error(error):
            raise
        return ready  # such as a view that needs another memory format
    spread = (expected - expected.mean(dim=1, keepdim=True)).abs().max()
    return changed if bool((actual - expected).abs().max() <= TOLERANCE[expected.dtype] * spread) else ready


def _channels_last(ready: Classifier) -> Classifier:
    last = copy.deepcopy(ready).to(memory_format=torch.channels_last)
    last.memory_format = torch.channels_last
    return last


def _folded(ready: Classifier, probe: Tensor) -> Classifier:
    """A copy in which every batch norm whose input is, in execution, a convolution's output is folded into it."""
    model = copy.deepcopy(ready)
    pairs = _observe_pairs(model, probe)
    for conv, norm in pairs:
        _fold(conv, norm)
    replaced = {id(norm) for _, norm in pairs}
    for parent in model.modules():
        for name, child in parent.named_children():
            if id(child) in replaced:
                setattr(parent, name, nn.Identity())
    return model


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
            if isinstance(module, CONVOLUTIONS) and "weight" in module._parameters:  # not one that is computed
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


_COPIES: WeakKeyDictionary[Classifier, dict[bool, tuple[object, Classifier]]] = WeakKeyDictionary()
_UNCHANGED: WeakKeyDictionary[Classifier, object] = WeakKeyDictionary()  # versions that are not looked up again


@contextmanager
def freeze_version(classifier: Classifier) -> Iterator[None]:
    """Within, the classifier is taken to stay as it is on entering, so that it is not compared with its copies at every use."""
    if classifier in _UNCHANGED:
        yield
        return
    _UNCHANGED[classifier] = _version(classifier)
    try:
        yield
    finally:
        del _UNCHANGED[classifier]


def inference_copy(classifier: Classifier, *, fold: bool = True) -> Classifier:
    """The working copy of ``classifier`` as it is now: made when first needed, and anew when it has changed."""
    version = _UNCHANGED[classifier] if classifier in _UNCHANGED else _version(classifier)
    copies = _COPIES.setdefault(classifier, {})
    if fold not in copies or copies[fold][0] != version:
        with torch.inference_mode(False):
            copies[fold] = (version, optimize_for_inference(classifier, fold=fold))
    return copies[fold][1]


def _version(classifier: Classifier) -> object:
    """What changes when modules are replaced or parameters and buffers are written to, be it through ``.data``."""
    tensors = [*classifier.parameters(), *classifier.buffers()]
    with torch.no_grad():
        sums = torch.stack([each.detach().sum(dtype=torch.float32) for each in tensors])
    written = tuple((each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors)
    return tuple(map(id, classifier.modules())), written, tuple(sums.tolist())


@contextmanager
def tf32_flags(precision: str, device: torch.device) -> Iterator[None]:
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


class _Scaled(torch.autograd.Function):
    """An evaluated batch norm; its gradient is the output's times weight / sqrt(variance + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: _Fixed) -> Tensor:
        """x: (B, C, ...)."""
        ctx.norm = norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """slope: (B, C, ...)."""
        norm = ctx.norm
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        return (slope * scale.reshape(-1, *[1] * (slope.ndim - 2))).to(slope.dtype), None


class _Fixed(nn.modules.batchnorm._BatchNorm):
    """In evaluation, with frozen weights."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        if self.training or self.running_var is None or any(each.requires_grad for each in self.parameters()):
            return super().forward(x)
        self._check_input_dim(x)
        return _Scaled.apply(x, self)


class _Fixed1d(_Fixed, nn.BatchNorm1d): ...


class _Fixed2d(_Fixed, nn.BatchNorm2d): ...


class _Fixed3d(_Fixed, nn.BatchNorm3d): ...


_FIXED: dict[type[nn.Module], type[_Fixed]] = {
    nn.BatchNorm1d: _Fixed1d,
    nn.BatchNorm2d: _Fixed2d,
    nn.BatchNorm3d: _Fixed3d,
}


def fix_batch_norms(model: nn.Module) -> None:
    """Turn the model's batch norms into fixed ones, in place; classes derived from them are left as they are."""
    for module in model.modules():
        if fixed := _FIXED.get(type(module)):
            module.__class__ = fixed
