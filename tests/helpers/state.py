"""What shows that a model was touched."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def state(classifier: nn.Module) -> dict[str, Any]:
    """All that a caller may expect to find as it was; the tensors' values by a checksum."""
    modules = dict(classifier.named_modules())
    tensors = {**dict(classifier.named_parameters()), **dict(classifier.named_buffers())}
    return {
        "modules": {name: (id(each), type(each)) for name, each in modules.items()},
        "modes": {name: each.training for name, each in modules.items()},
        "hooks": {name: [len(getattr(each, kind)) for kind in HOOKS] for name, each in modules.items()},
        "forwards": {name: getattr(each.forward, "__func__", None) for name, each in modules.items()},
        "in-place": {name: getattr(each, "inplace", None) for name, each in modules.items()},
        "tensors": {name: (id(each), crc32(each.detach().numpy().tobytes())) for name, each in tensors.items()},
        "frozen": {name: each.requires_grad for name, each in tensors.items()},
        "grads": {name: each.grad for name, each in tensors.items()},
        "random": torch.get_rng_state().numpy().tobytes(),
        "recording": torch.is_grad_enabled(),
    }
