"""``emulate_cuda``: replace the functions of ``torch.cuda`` while the emulated device exists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.helpers.emulated_cuda.log import DeviceLog
from tests.helpers.emulated_cuda.modes import EmulatedAutocast, EmulatedGenerator, FactoryMode, FunctionMode
from tests.helpers.emulated_cuda.tensor import Current, EmulatedTensor

IGNORED = (
    "empty_cache", "reset_peak_memory_stats", "_lazy_init", "init", "manual_seed", "manual_seed_all", "set_device",
    "set_rng_state", "set_rng_state_all", "is_current_stream_capturing",
)  # fmt: skip
PROPERTIES = SimpleNamespace(name="Emulated GPU", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132)
ANSWERS: dict[str, Any] = {
    "is_available": True,
    "is_initialized": True,
    "device_count": 1,
    "current_device": 0,
    "get_device_name": PROPERTIES.name,
    "get_device_properties": PROPERTIES,
    "get_device_capability": (9, 0),
    "is_bf16_supported": True,
    "mem_get_info": (80 << 30, 80 << 30),
    "memory_allocated": 1 << 20,
    "max_memory_allocated": 1 << 30,
    "max_memory_reserved": 1 << 30,
}


@contextmanager
def emulate_cuda(path: str = "/xplain/", row_limit: int | None = None) -> Iterator[DeviceLog]:
    """Give torch one CUDA device in this context, and return the log of its operations.

    path: part of the path of the program's files, whose lines the log names.
    row_limit: calls of a model with more rows run out of memory; ``log.row_limit`` can be changed.
    """
    log, previous = DeviceLog(path, row_limit), Current.log
    with ExitStack() as stack:
        for name, answer in (dict.fromkeys(IGNORED) | ANSWERS).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, _answer_with(answer)))
        for owner, name, replacement in _make_replacements(log):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.callback(_limit_rows(log).remove)
        stack.enter_context(FunctionMode())
        stack.enter_context(FactoryMode())
        Current.log = log
        try:
            yield log
        finally:
            Current.log = previous


def _answer_with(answer: Any) -> Any:
    return lambda *_, **__: answer


def _make_replacements(log: DeviceLog) -> list[tuple[Any, str, Any]]:
    """Return owner, name and replacement of the functions that do more than return a constant."""
    autocast, get_state = torch.autocast, torch.get_rng_state

    def count_wait(*_: Any, **__: Any) -> None:
        log.waits += 1

    def make_autocast(device_type: Any, *args: Any, **kwargs: Any) -> Any:
        if str(device_type).startswith("cuda"):
            return EmulatedAutocast(*args, **kwargs)
        return autocast(device_type, *args, **kwargs)

    stream = SimpleNamespace(is_capturing=lambda: False)
    return [
        (torch.cuda, "synchronize", count_wait),
        (torch.cuda, "get_rng_state", lambda *_: get_state()),
        (torch, "Generator", EmulatedGenerator),
        (torch, "autocast", make_autocast),
        (torch.accelerator, "current_stream", lambda *_: stream),
    ]


def _limit_rows(log: DeviceLog) -> Any:
    """Register a hook of all modules that raises if images of more rows than ``log.row_limit`` arrive; return its handle."""

    def check(module: Any, inputs: Any) -> None:
        images = inputs[0] if inputs else None
        is_batch = isinstance(images, EmulatedTensor) and images.dim() == 4
        if log.row_limit is not None and is_batch and len(images) > log.row_limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return torch.nn.modules.module.register_module_forward_pre_hook(check)
