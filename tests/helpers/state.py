"""Snapshot of a model, to test that it was not changed."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def state(classifier: nn.Module) -> dict[str, Any]:
    """Return everything that must not change when a classifier is used; tensors as checksums."""
    modules = dict(classifier.named_modules())
    tensors = {**dict(classifier.named_parameters()), **dict(classifier.named_buffers())}
    return {
        "modules": {name: (id(module), type(module)) for name, module in modules.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "hooks": {name: [len(getattr(module, kind)) for kind in HOOKS] for name, module in modules.items()},
        "forwards": {name: getattr(module.forward, "__func__", None) for name, module in modules.items()},
        "in-place": {name: getattr(module, "inplace", None) for name, module in modules.items()},
        "tensors": {name: (id(tensor), _checksum(tensor)) for name, tensor in tensors.items()},
        "frozen": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "grads": {name: tensor.grad for name, tensor in tensors.items()},
        "random": torch.get_rng_state().numpy().tobytes(),
        "recording": torch.is_grad_enabled(),
    }


def _checksum(tensor: Tensor) -> int:
    return crc32(tensor.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes())
