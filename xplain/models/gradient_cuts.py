"""Find out why the logits of a model have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from xplain.core.errors import first_line
from xplain.models.classifier import Classifier

QUANTIZED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "bitsandbytes", "torchao")
IN_PLACE_ERRORS = ("in-place", "inplace")


def find_gradient_problem(classifier: Classifier, images: Tensor, error: Exception | None) -> tuple[str, str]:
    """Return why the logits of images have no gradient, as the end of "the model ...", and what else to do about it.

    error: raised by the forward or the backward pass with gradients, if any.
    """
    model = classifier.model
    text = "" if error is None else first_line(error)
    if is_quantized(model):
        return "is quantized", ", or load it without quantization"
    is_script = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    if any(part in text for part in IN_PLACE_ERRORS):
        hint = ", or script it with inplace=False" if is_script else ", or remove the in-place operations"
        return f"works in place ({text})", hint
    if "Inference tensors" not in text and error is not None:
        return f"fails with gradients ({text})", ""
    where = "" if is_script else _find_cut(classifier, images)
    hint = ", or set through_no_grad = True on the module" if _is_cut_by_no_grad(classifier, images) else ""
    return f"cuts them{where} (torch.no_grad, detach or inference_mode)", hint


def is_quantized(model: nn.Module) -> bool:
    """Return whether a model has quantized layers or parameters."""
    packages = {type(module).__module__ for module in model.modules()}
    if any(package.startswith(QUANTIZED_PACKAGES) for package in packages):
        return True
    tensors = [*model.parameters(), *model.buffers()]
    has_floats = any(parameter.is_floating_point() for parameter in model.parameters())
    has_integers = any(tensor.dtype in (torch.int8, torch.uint8, torch.qint8, torch.quint8) for tensor in tensors)
    return has_integers and not has_floats


def _find_cut(classifier: Classifier, images: Tensor) -> str:
    """Return `` in 'NAME'`` for the first module whose input has a gradient and whose output has none, or ``""``."""
    cuts: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            takes = any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
            if takes and isinstance(output, Tensor) and not output.requires_grad:
                cuts.append(name)

        return hook

    with ExitStack() as stack:
        for name, module in classifier.model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(watch(name)).remove)
        _has_gradient(classifier, images)
    return f" in {cuts[0]!r}" if cuts else ""


def _is_cut_by_no_grad(classifier: Classifier, images: Tensor) -> bool:
    """Return whether the logits have a gradient if ``torch.no_grad`` is ignored."""
    original = classifier.execution
    classifier.execution = replace(original, through_no_grad=True)
    try:
        return _has_gradient(classifier, images)
    finally:
        classifier.execution = original


def _has_gradient(classifier: Classifier, images: Tensor) -> bool:
    try:
        with torch.enable_grad():
            return classifier(images.detach().clone().requires_grad_()).requires_grad
    except RuntimeError:  # inference tensors cannot be used where gradients are computed
        return False
