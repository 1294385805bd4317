"""Which device a run uses."""

from __future__ import annotations

import torch

from xplain.core.errors import DeviceError, UsageError


def select_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises UsageError for another name and DeviceError when the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (number.isdecimal() if kind == "cuda" else number == "0")):
        raise UsageError(f"unknown device {name!r}", "give auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise DeviceError(
                f"device {name!r} is not there: torch {torch.__version__} sees {count} CUDA devices", "use --device cpu"
            )
    if kind == "mps" and not _has_mps():
        raise DeviceError("device 'mps' is not there", "use --device cpu")
    return torch.device(name)


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())
