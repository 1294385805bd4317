"""Select a device by name."""

from __future__ import annotations

import os
import re

import torch
from torch import Tensor

from xplain.core.errors import DeviceError, UsageError

DEVICE_NAME = re.compile(r"cpu(:0)?|mps(:0)?|cuda(:(0|[1-9][0-9]*))?")

# Without this setting, which must be made before the first matrix product, cuBLAS may give other bytes in every run.
CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def select_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is CUDA or MPS if available, else the CPU. Processes that torchrun started on one machine share its CUDA devices: ``auto`` and
    ``cuda`` are the device with the number of the process.
    Raises UsageError for any other name, and DeviceError if the device is not available.
    """
    if name == "auto":
        return _default_device()
    if not DEVICE_NAME.fullmatch(name):
        raise UsageError(f"unknown device {name!r}", "use auto, cpu, cuda, cuda:N or mps")
    kind, _, index = name.partition(":")
    if kind == "cuda":
        _check_cuda(name, int(index or 0))
        return _prepare_cuda(index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"device {name!r} is not available", "use another --device")
    return torch.device(name)


def _default_device() -> torch.device:
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and accelerator.type == "cuda":
            return _prepare_cuda()
        if accelerator is not None and accelerator.type == "mps":
            return torch.device("mps")
    return torch.device("cpu")


def _prepare_cuda(index: str = "") -> torch.device:
    """Return the CUDA device with an index, or that of this process, and let cuBLAS give the same bytes in every run."""
    os.environ.setdefault(*CUBLAS_WORKSPACE)
    rank = os.environ.get("LOCAL_RANK", "")
    if not index and rank.isdecimal():
        index = str(int(rank) % max(torch.cuda.device_count(), 1))
    return torch.device(f"cuda:{index}" if index else "cuda")


def _check_cuda(name: str, index: int) -> None:
    """Raise DeviceError if no CUDA device has the given index."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise DeviceError(
            f"device {name!r} is not available: PyTorch {torch.__version__} found {count} CUDA devices",
            "use another --device",
        )


def synchronize(device: torch.device) -> None:
    """Wait for all queued work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def upload(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a CPU tensor on a device. The copy to CUDA is from pinned memory, so that the program does not wait for it."""
    x = x.to(dtype)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
