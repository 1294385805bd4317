"""``EmulatedTensor``: a tensor on the emulated device; each operation on it is checked, counted and run on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from tests.helpers.emulated_cuda.log import INDEXING, DeviceLog

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
BETWEEN_DEVICES = {
    "copy_", "_to_copy", "_copy_from", "set_",
}  # fmt: skip
# Operations besides pointwise ones that accept CPU tensors without dimensions.
WITH_CPU_SCALARS = {
    "masked_fill", "masked_fill_", "fill_", "fill", "where", "lift_fresh", "index_fill", "index_fill_",
}  # fmt: skip
PINNED = "_is_pinned_in_emulation"  # attribute of CPU tensors that were copied to pinned memory


class Current:
    """The log of the running emulation."""

    log = DeviceLog()


class EmulatedTensor(torch.Tensor):
    """A tensor whose device is cuda:0. content: a CPU tensor with its values."""

    content: torch.Tensor

    @staticmethod
    def __new__(cls, content: torch.Tensor) -> EmulatedTensor:
        with torch._C._DisableTorchDispatch():
            shell = torch.empty_strided(content.shape, content.stride(), dtype=content.dtype, device="meta")
        tensor = torch.Tensor._make_subclass(cls, shell, False, device_for_backend_keys=CPU)
        tensor.content = content
        return tensor

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.content.data_ptr()

    def cpu(self, **_: Any) -> torch.Tensor:
        return self.to(CPU)

    def tolist(self) -> Any:
        Current.log.synchronizations["tolist", Current.log.find_line()] += 1
        return self.content.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.content.detach().__reduce_ex__(protocol)  # as it is read with map_location="cpu"

    def __repr__(self, **_: Any) -> str:
        return f"EmulatedTensor({self.content!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> EmulatedTensor:
        if id(self) not in memo:
            copied = EmulatedTensor(self.content.detach().clone()).requires_grad_(self.requires_grad)
            copied._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = copied
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operation(func, args, kwargs or {})  # also in threads, which do not have the modes


def run_operation(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check an operation, count it, run it on the CPU, and wrap its results if they are on the device."""
    name = func.overloadpacket.__name__
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    inputs = [tensor for tensor in tensors if isinstance(tensor, EmulatedTensor)]
    is_on_device = _has_result_on_device(name, args, kwargs, inputs)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": CPU if kwargs["device"] is not None else None}
    if inputs and name not in BETWEEN_DEVICES:
        _check_devices(func, name, args, tensors)
    if any(tensor.is_meta and not isinstance(tensor, EmulatedTensor) for tensor in tensors):
        raise NotImplementedError(f"the emulated device lost the values of a tensor before {func}")
    if is_on_device or inputs:
        _count(name, args, kwargs, inputs, is_on_device)
    output = func(*_unwrap(args), **_unwrap(kwargs))
    if name == "_to_copy" and is_on_device != bool(inputs) and any(output is tensor for tensor in tensors):
        output = output.clone()  # a copy to another device never shares memory
    if name == "copy_":
        return args[0]
    if not is_on_device:
        return output
    known = {id(tensor.content): tensor for tensor in inputs}  # an operation in place returns its argument
    return tree_map(lambda value: _wrap(value, known), output)


def _wrap(value: Any, known: dict[int, EmulatedTensor]) -> Any:
    """Return the emulated tensor of a CPU tensor, one of ``known`` if it has the same content."""
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else EmulatedTensor(value)


def _has_result_on_device(name: str, args: Any, kwargs: dict[str, Any], inputs: list[EmulatedTensor]) -> bool:
    if name == "copy_":
        return isinstance(args[0], EmulatedTensor)
    requested = kwargs.get("device")
    return bool(inputs) if requested is None else torch.device(requested).type in ("cuda", "meta")


def _check_devices(func: Any, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    """Raise RuntimeError, as CUDA does, if tensors are on different devices."""
    if name in INDEXING:
        if not isinstance(args[0], EmulatedTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [args[0], *(value for value in args[2:] if isinstance(value, torch.Tensor) and value.dim())]
    accepts_scalars = torch.Tag.pointwise in func.tags or name in WITH_CPU_SCALARS
    others = [tensor for tensor in tensors if not isinstance(tensor, EmulatedTensor)]
    if any(not (accepts_scalars and tensor.dim() == 0) for tensor in others):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )


def _count(name: str, args: Any, kwargs: dict[str, Any], inputs: list[EmulatedTensor], is_on_device: bool) -> None:
    log = Current.log
    log.operations += 1
    if name in ("_to_copy", "copy_"):
        source = args[1] if name == "copy_" else args[0]
        from_device = isinstance(source, EmulatedTensor)
        log.count_copy(from_device=from_device, to_device=is_on_device, pinned=hasattr(source, PINNED))
    else:
        log.count_operation(name, args, kwargs, list(inputs))


def _unwrap(values: Any) -> Any:
    return tree_map(lambda value: value.content if isinstance(value, EmulatedTensor) else value, values)
