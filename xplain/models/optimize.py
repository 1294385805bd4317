"""Optimized copies of a classifier for inference: frozen, nothing in place, channels-last, batch norms folded or fixed.

Every change is checked on a probe batch, and undone if it changes the output. The user's model is never modified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.errors import convert_device_errors, device_error
from xplain.models.arithmetic import reproducible_arithmetic
from xplain.models.batch_norms import BATCH_NORMS, fix_batch_norms, protect_norms
from xplain.models.channels import make_noise
from xplain.models.classifier import Classifier
from xplain.models.output_reader import rewrite_output
from xplain.models.wrappers import copy_module

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # relative to the spread of the logits
NO_ROOM = "free memory for a copy of the model's weights, or use a smaller model or another --device"

# Copies by classifier and ``fold``, each with the version of the classifier that it was made from.
_COPIES: WeakKeyDictionary[Classifier, dict[bool, tuple[object, Classifier]]] = WeakKeyDictionary()
_CHANNELS_FIRST_COPIES: WeakKeyDictionary[Classifier, tuple[object, Classifier]] = WeakKeyDictionary()
_DOUBLE_COPIES: WeakKeyDictionary[Classifier, tuple[object, Classifier]] = WeakKeyDictionary()
_FROZEN_VERSIONS: WeakKeyDictionary[Classifier, object] = WeakKeyDictionary()


def inference_copy(classifier: Classifier, *, fold: bool = True) -> Classifier:
    """Return the optimized copy of a classifier. It is cached, and made again after the classifier has changed.

    fold: as in ``optimize_for_inference``. Raises DeviceError if the copy does not fit in memory.
    """
    version = _current_version(classifier)
    copies = _COPIES.setdefault(classifier, {})
    if fold not in copies or copies[fold][0] != version:
        with torch.inference_mode(False), reproducible_arithmetic(classifier.device), convert_device_errors(NO_ROOM):
            copies[fold] = (version, optimize_for_inference(classifier, fold=fold))
    return copies[fold][1]


def double_copy(classifier: Classifier) -> Classifier | None:
    """Return a copy of a classifier in float64, or None if its device or its kind of model has no float64.

    The copy is cached, and made again after the classifier has changed. None also for a classifier in float64 already.
    """
    if classifier.is_black_box or classifier.device.type == "mps" or classifier.dtype == torch.float64:
        return None
    return _cached_copy(_DOUBLE_COPIES, classifier, lambda copied: copied.double())


def channels_first_copy(classifier: Classifier) -> Classifier | None:
    """Return a copy whose optimized copies have the channels first in memory, or None if those of the classifier have them first too.

    The copy is cached as that of ``double_copy``.
    """
    if inference_copy(classifier).memory_format == torch.contiguous_format:
        return None

    def keep_channels_first(copied: Classifier) -> Classifier:
        copied.allows_channels_last = False
        return copied

    return _cached_copy(_CHANNELS_FIRST_COPIES, classifier, keep_channels_first)


def _cached_copy(
    cache: WeakKeyDictionary[Classifier, tuple[object, Classifier]],
    classifier: Classifier,
    change: Callable[[Classifier], Classifier],
) -> Classifier:
    """Return a changed copy of a classifier from the cache, or make it if the classifier has changed since."""
    version = _current_version(classifier)
    cached = cache.get(classifier)
    if cached is None or cached[0] != version:
        with torch.inference_mode(False):
            cached = (version, change(copy_classifier(classifier)))
        cache[classifier] = cached
    return cached[1]


def _current_version(classifier: Classifier) -> object:
    """Return the version of the classifier, which is looked up inside ``freeze_version``."""
    version = _FROZEN_VERSIONS.get(classifier)
    return _version(classifier) if version is None else version


@contextmanager
def freeze_version(classifier: Classifier) -> Iterator[None]:
    """Skip change detection inside the block: ``inference_copy`` assumes that the classifier does not change."""
    if classifier in _FROZEN_VERSIONS:
        yield
        return
    _FROZEN_VERSIONS[classifier] = _version(classifier)
    try:
        yield
    finally:
        del _FROZEN_VERSIONS[classifier]


def _version(classifier: Classifier) -> object:
    """Return a value that changes when modules are replaced, or parameters or buffers are modified (also through ``.data``)."""
    tensors = [*classifier.parameters(), *classifier.buffers()]
    with torch.no_grad():
        sums = torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in tensors])
    counters = tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    return tuple(map(id, classifier.modules())), counters, tuple(sums.tolist())


def optimize_for_inference(classifier: Classifier, *, fold: bool = True) -> Classifier:
    """Return a frozen copy in evaluation mode that computes the same logits faster.

    fold: fold batch norms into the convolutions before them. Use False to read activations by layer name: batch norms are then
    kept, with a faster backward pass.
    """
    optimized = copy_classifier(classifier)
    optimized.train().eval().requires_grad_(False)  # ``train`` drops values that were cached in evaluation
    if optimized.is_black_box:
        return optimized
    for module in optimized.modules():
        if getattr(module, "inplace", False) is True and not isinstance(module, torch.jit.ScriptModule):
            module.inplace = False  # type: ignore[assignment]
    optimized.reader = rewrite_output(optimized.model, optimized.reader)
    protect_norms(optimized)
    if optimized.dtype not in TOLERANCE:
        return optimized
    probe = make_noise(optimized, 2)
    with torch.no_grad():
        try:
            expected = optimized(probe)
        except Exception as error:  # a model may reject the shape of the probe with any type of error
            if device_error(error):
                raise
            return optimized
        if fold:
            optimized = _keep_if_equal(_fold_batch_norms(optimized, probe), optimized, probe, expected)
        else:
            fix_batch_norms(optimized)
        if optimized.allows_channels_last and any(isinstance(module, nn.Conv2d) for module in optimized.modules()):
            optimized = _keep_if_equal(_to_channels_last(optimized), optimized, probe, expected)
    return optimized


def copy_classifier(classifier: Classifier) -> Classifier:
    """Return a deep copy. Computed tensors that a forward pass left in a module are copied by value."""
    return copy_module(classifier)


def _keep_if_equal(candidate: Classifier, current: Classifier, probe: Tensor, expected: Tensor) -> Classifier:
    """Return ``candidate`` if it computes the expected logits for the probe, within TOLERANCE of their spread, else ``current``.

    The spread of softmax logits is that over the classes, because a constant does not change them. Others are compared with 0.
    """
    try:
        actual = candidate(candidate.to_memory_format(probe))
    except RuntimeError as error:
        if device_error(error):
            raise
        return current  # for example, ``view`` fails in another memory format
    has_exclusive_classes = current.output.activation == "softmax" and expected.shape[1] > 1
    centers = expected.mean(dim=1, keepdim=True) if has_exclusive_classes else 0
    spread = (expected - centers).abs().max()
    is_equal = bool((actual - expected).abs().max() <= TOLERANCE[expected.dtype] * spread)
    return candidate if is_equal else current


def _to_channels_last(classifier: Classifier) -> Classifier:
    copied = copy_module(classifier).to(memory_format=torch.channels_last)
    copied.memory_format = torch.channels_last
    return copied


def _fold_batch_norms(classifier: Classifier, probe: Tensor) -> Classifier:
    """Return a copy in which every batch norm whose input is the output of a convolution is folded into it."""
    folded = copy_module(classifier)
    pairs = _find_foldable_pairs(folded, probe)
    for conv, norm in pairs:
        _fold(conv, norm)
    folded_ids = {id(norm) for _, norm in pairs}
    for parent in folded.modules():
        for name, child in parent.named_children():
            if id(child) in folded_ids:
                setattr(parent, name, nn.Identity())
    return folded


def _find_foldable_pairs(model: nn.Module, probe: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Return the pairs (convolution, norm) that run once, where the norm receives the convolution's output tensor."""
    producers: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors are kept alive, so that no id is reused
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def record_output(module: nn.Module, _: object, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        producers[id(output)] = (module, output)

    def record_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in producers:
            pairs.append((producers[id(inputs[0])][0], module))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, CONVOLUTIONS) and "weight" in module._parameters:  # not a computed weight
                stack.callback(module.register_forward_hook(record_output).remove)
            elif isinstance(module, BATCH_NORMS) and module.running_var is not None:
                stack.callback(module.register_forward_pre_hook(record_input).remove)
        model(probe)
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]


def _fold(conv: Any, norm: Any) -> None:
    """Scale and shift a convolution by a norm's running statistics and parameters, computed in float64."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    offset = (0 if norm.bias is None else norm.bias.double()) - mean * scale
    if conv.bias is not None:
        offset = offset + conv.bias.double() * scale
    kernel = conv.weight.double() * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(kernel.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(offset.to(dtype), requires_grad=False)
