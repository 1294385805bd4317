"""What users put around and into a network: wrappers, checkpoints, hooks, stored activations, other types and patched methods."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Wrapped:
    """A module as a user has it. model: what is passed to xplain. owner: the module that holds ``size``, ``mean`` and ``std``."""

    model: nn.Module
    owner: nn.Module


class Checkpointed(nn.Module):
    """A module whose activations are computed again in the backward pass."""

    def __init__(self, inner: nn.Module, *, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Storing(nn.Module):
    """A module that keeps its activations, and hooks them to keep their gradients, as programs for Grad-CAM do."""

    def __init__(self, inner: nn.Module, *, hooked: bool) -> None:
        super().__init__()
        self.inner, self.hooked = inner, hooked
        self.activations: list[Tensor] = []
        self.gradient: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        self.activations = [x]
        if self.hooked:
            x.register_hook(self.keep)
        return x

    def keep(self, gradient: Tensor) -> None:
        self.gradient = gradient


class OptimizedModule(nn.Module):
    """A wrapper with the structure of that of torch.compile, which does not compile."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    def forward(self, x: Tensor) -> object:
        return self._orig_mod(x)


def _sequential(network: nn.Module, images: Tensor) -> Wrapped:
    outer = nn.Sequential(OrderedDict(inner=network))
    return Wrapped(outer, outer)


def _checkpointed(network: nn.Module, *, reentrant: bool) -> Wrapped:
    network.features.body = Checkpointed(network.features.body, reentrant=reentrant)
    return Wrapped(network, network)


def _storing(network: nn.Module, images: Tensor, *, hooked: bool) -> Wrapped:
    network.features.body = Storing(network.features.body, hooked=hooked)
    network(images.clone().requires_grad_())
    return Wrapped(network, network)


def _recording_hook(network: nn.Module, images: Tensor) -> Wrapped:
    network.records = []
    network.features.stem.register_forward_hook(lambda _, inputs, output: network.records.append(output.shape))
    network.features.register_full_backward_hook(lambda *_: network.records.append("backward"))
    return Wrapped(network, network)


def _patched(network: nn.Module, images: Tensor) -> Wrapped:
    original = network.forward
    network.forward = lambda x: original(x)
    return Wrapped(network, network)


def _patched_by_default_argument(network: nn.Module, images: Tensor) -> Wrapped:
    network.forward = lambda x, original=network.forward: original(x)
    return Wrapped(network, network)


def _traced(network: nn.Module, images: Tensor) -> Wrapped:
    network.eval()
    traced = torch.jit.trace(network, images, check_trace=False)
    return Wrapped(traced, traced)


def _with_type(network: nn.Module, dtype: torch.dtype) -> Wrapped:
    network.to(dtype)
    return Wrapped(network, network)


def _in_training(network: nn.Module, images: Tensor) -> Wrapped:
    network.train()
    return Wrapped(network, network)


# A network and images (2, C, H, W) that it accepts -> the module of a user.
WRAPPERS: dict[str, Callable[[nn.Module, Tensor], Wrapped]] = {
    "bare": lambda network, images: Wrapped(network, network),
    "sequential": _sequential,
    "parallel": lambda network, images: Wrapped(nn.DataParallel(network), network),
    "averaged": lambda network, images: Wrapped(averaged := AveragedModel(network), averaged.module),
    "compiled": lambda network, images: Wrapped(OptimizedModule(network), network),
    "compiled, parallel": lambda network, images: Wrapped(OptimizedModule(nn.DataParallel(network)), network),
    "checkpointed": lambda network, images: _checkpointed(network, reentrant=False),
    "checkpointed, reentrant": lambda network, images: _checkpointed(network, reentrant=True),
    "storing": lambda network, images: _storing(network, images, hooked=False),
    "storing, hooked": lambda network, images: _storing(network, images, hooked=True),
    "hooks": _recording_hook,
    "patched": _patched,
    "patched by a default argument": _patched_by_default_argument,
    "in training mode": _in_training,
    "traced": _traced,
    "float32": lambda network, images: _with_type(network, torch.float32),
    "float16": lambda network, images: _with_type(network, torch.float16),
    "bfloat16": lambda network, images: _with_type(network, torch.bfloat16),
}
