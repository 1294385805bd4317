"""Track which tensors of a forward pass depend on the image, with and without a gradient.

A tensor without a gradient (a comparison, a detached value, a value computed under ``torch.no_grad``) is not a constant if it was
computed from the image. Marks belong to the memory of a tensor, which covers views and tensors that are written in place. They are
set below autograd, where the operations of scripted and custom functions are visible too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from xplain.oracle.operations import find_tensors

# Operations whose output depends on the shape and type of their first argument, but not on its values.
_VALUE_INDEPENDENT = {
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
}


class ImageDependence(TorchDispatchMode):
    """While active, marks the output of each operation that has a marked tensor among its inputs."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._storages: set[StorageWeakRef] = set()
        self._mark(images)

    def includes(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on the image."""
        return tensor.layout is torch.strided and StorageWeakRef(tensor.untyped_storage()) in self._storages

    def _mark(self, tensor: Tensor) -> None:
        if tensor.layout is torch.strided:
            self._storages.add(StorageWeakRef(tensor.untyped_storage()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call: Callable[..., Any] = func
        output = call(*args, **kwargs)
        if _name_of(func) not in _VALUE_INDEPENDENT and any(map(self.includes, find_tensors((args, kwargs)))):
            for tensor in find_tensors(output):
                self._mark(tensor)
        return output


def _name_of(func: Any) -> str:
    """Return the name of an operator without its overload, such as ``zeros_like``."""
    packet = getattr(func, "overloadpacket", func)
    return str(getattr(packet, "__name__", ""))
