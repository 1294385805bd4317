"""What PyTorch's Python functions do on the emulated device: factories, generators, indices, autocast and attention."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.emulated_cuda.tensor import CPU, CUDA, PINNED, Current, EmulatedTensor, run_operation

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# The most common functions that autocast runs in the type of lower precision, and in float32.
LOWER_PRECISION = {
    "conv1d", "conv2d", "conv3d", "linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum",
    "scaled_dot_product_attention",
}  # fmt: skip
FLOAT32 = {
    "softmax", "log_softmax", "layer_norm", "group_norm", "norm", "exp", "log", "pow", "sum", "prod", "cumsum",
    "cross_entropy",
}  # fmt: skip


class FactoryMode(TorchDispatchMode):
    """Run operations that have no emulated tensor among their inputs, such as ``torch.zeros(3, device="cuda")``."""

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operation(func, args, kwargs or {})


class FunctionMode(TorchFunctionMode):
    """Name the device "meta" to C++ code, which would look for a driver, check generators, and write out attention."""

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.pin_memory:
            return _pin(args[0])
        is_move = func in (torch.Tensor.to, torch.Tensor.cuda)
        if func is torch.Tensor.cuda:
            func, args, kwargs = torch.Tensor.to, (args[0], "cuda"), {}
        args = tuple(_as_meta(value) if is_move or isinstance(value, torch.device) else value for value in args)
        if "device" in kwargs:
            kwargs["device"] = _as_meta(kwargs["device"])
        is_for_device = str(kwargs.get("device")) == "meta"
        if kwargs.get("generator") is not None:
            is_used_there = is_for_device or any(isinstance(value, EmulatedTensor) for value in args)
            _check_generator(kwargs["generator"], is_used_there)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], EmulatedTensor):
            args = (args[0], _upload_lists(args[1]), *args[2:])
        if func is torch.Tensor.new_tensor and isinstance(args[0], EmulatedTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to("meta")
        if func in (torch.tensor, torch.as_tensor) and is_for_device and not isinstance(args[0], torch.Tensor):
            return func(*args, **{**kwargs, "device": CPU}).to(kwargs["device"])
        if Current.log.autocast is not None:
            args = _cast(func.__name__, args)
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], EmulatedTensor):
            return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
        return func(*args, **kwargs)


class EmulatedGenerator(torch.Generator):
    """A random generator that knows for which device it was made."""

    def __new__(cls, device: Any = "cpu") -> EmulatedGenerator:
        generator = super().__new__(cls, device="cpu")
        generator.is_emulated = torch.device(device).type == "cuda"
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        pass

    device = property(lambda self: CUDA if self.is_emulated else CPU)


class EmulatedAutocast:
    """Replacement of ``torch.autocast("cuda")``, which may be entered again."""

    def __init__(self, dtype: torch.dtype = torch.float16, enabled: bool = True) -> None:
        self.dtype = dtype if enabled else None
        self.previous: list[torch.dtype | None] = []

    def __enter__(self) -> None:
        self.previous.append(Current.log.autocast)
        Current.log.autocast = self.dtype

    def __exit__(self, *_: object) -> None:
        Current.log.autocast = self.previous.pop()


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a CPU tensor whose upload counts as one from pinned memory."""
    if isinstance(tensor, EmulatedTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    pinned = tensor.clone()
    setattr(pinned, PINNED, True)
    return pinned


def _as_meta(value: Any) -> Any:
    """Return the device "meta" for a CUDA device, and any other value as it is."""
    is_cuda = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
    return torch.device("meta") if is_cuda else value


def _check_generator(generator: Any, is_used_there: bool) -> None:
    if is_used_there != generator.is_emulated:
        expected, actual = ("cuda", "cpu") if is_used_there else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{actual}'")


def _upload_lists(index: Any) -> Any:
    """Return an index in which lists are tensors on the device."""
    if isinstance(index, tuple):
        return tuple(_upload_lists(part) for part in index)
    if isinstance(index, list):
        return torch.tensor(index, dtype=None if index else torch.long).to("meta")
    return index


def _cast(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a function in the type in which autocast runs it."""
    if name in LOWER_PRECISION:
        dtype = Current.log.autocast
    elif name in FLOAT32:
        dtype = torch.float32
    else:
        return args
    return tuple(
        value.to(dtype) if isinstance(value, EmulatedTensor) and value.dtype in FLOATS else value for value in args
    )
