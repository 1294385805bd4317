"""How a network is run: gradients through no_grad, tensor hooks, checkpointed blocks and recurrent layers on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Errors of networks that hook a tensor in their forward pass, when they run without gradients.
TENSOR_HOOK_ERRORS = (
    "cannot register a hook on a tensor that doesn't require gradient",
    "can't retain_grad on Tensor that has requires_grad=False",
)
# Functions of torch.utils.checkpoint that run a block without reentrant autograd; the name depends on the version.
GENERATORS = ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl")


@dataclass
class Execution:
    """How a network is run.

    through_no_grad: ignore ``torch.no_grad`` in the forward pass while gradients are computed.
    has_tensor_hooks: the forward pass hooks tensors, so that it always needs gradients. Set by the first call.
    has_checkpoints: the forward pass runs blocks by ``torch.utils.checkpoint``; they are run without it.
    has_recurrence: the network has recurrent layers; cuDNN cannot differentiate them in evaluation mode.
    """

    through_no_grad: bool = False
    has_tensor_hooks: bool = False
    has_checkpoints: bool = False
    has_recurrence: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> Execution:
        """Return how a network is run, according to its modules."""
        return cls(has_recurrence=any(isinstance(module, nn.RNNBase) for module in model.modules()))

    def run(self, model: nn.Module, pixels: Tensor) -> object:
        """Return the output of the network for pixels (B, C, H, W)."""
        with ExitStack() as stack:
            if self.through_no_grad and torch.is_grad_enabled():
                stack.enter_context(_ThroughNoGrad())
            if self.has_checkpoints:
                stack.enter_context(without_checkpoints())
            if self.has_recurrence and pixels.is_cuda:
                stack.enter_context(_without_cudnn())
            return self._run(model, pixels)

    def _run(self, model: nn.Module, pixels: Tensor) -> object:
        if not self.has_tensor_hooks or torch.is_grad_enabled():
            try:
                return model(pixels)
            except RuntimeError as error:
                if torch.is_grad_enabled() or not any(text in str(error) for text in TENSOR_HOOK_ERRORS):
                    raise
                self.has_tensor_hooks = True
        with torch.enable_grad():
            return model(pixels.detach().requires_grad_())


class _ThroughNoGrad(TorchFunctionMode):
    """Ignore changes of the gradient mode."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


@contextmanager
def without_checkpoints() -> Iterator[list[object]]:
    """Run checkpointed blocks as plain calls inside the block. Yields a list with an entry for each checkpointed block that ran."""
    blocks: list[object] = []

    class PlainCheckpoint:
        @staticmethod
        def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
            blocks.append(function)
            return function(*args)

    def run_plainly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        blocks.append(function)
        yield

    module = torch.utils.checkpoint
    replacements: dict[str, Any] = {"CheckpointFunction": PlainCheckpoint}
    replacements |= {name: run_plainly for name in GENERATORS if hasattr(module, name)}
    originals = {name: getattr(module, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(module, name, replacement)
        yield blocks
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled
