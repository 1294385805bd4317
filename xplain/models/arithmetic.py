"""Settings of CUDA arithmetic: full float32 or TF32, and algorithms that give the same bytes in every run.

By default cuDNN rounds the inputs of convolutions in float32 to TF32, forward and backward, and some operations add floats in an order that
changes from run to run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch

from xplain.core.errors import emit_note

WITHOUT_ALTERNATIVE = "does not have a deterministic implementation"  # of a warning of torch
# Operations of which torch warns because of results that xplain does not use: the indices of equal values.
HARMLESS = ("kthvalue CUDA",)

_seen_operations: set[str] = set()


@contextmanager
def reproducible_arithmetic(device: torch.device) -> Iterator[None]:
    """Use full float32 and deterministic algorithms on CUDA inside the block. Model calls inside may use another precision."""
    with float32_precision("fp32", device), deterministic_algorithms(device):
        yield


@contextmanager
def float32_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in TF32 on CUDA inside the block if ``precision`` is ``tf32``, and in full float32 otherwise, also backward passes.

    The previous settings are restored on exit, those of the properties ``fp32_precision`` as well as the older ``allow_tf32``.
    """
    value = "tf32" if precision == "tf32" else "ieee"
    if device.type != "cuda" or all(owner.fp32_precision == value for owner in _owners()):
        yield
        return
    previous = _Settings.read()
    _Settings(dict.fromkeys(previous.flags, value == "tf32"), [(value, value)] * len(previous.values)).write()
    try:
        yield
    finally:
        previous.write()


@contextmanager
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Use deterministic algorithms on CUDA inside the block where they exist. Other operations run, and a note names each once.

    Settings that the user made stricter stay as they are.
    """
    if device.type != "cuda" or torch.get_deterministic_debug_mode() > 0:
        yield
        return
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    previous = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = True, False, False
    torch.set_deterministic_debug_mode("warn")
    try:
        with _alerts_as_notes():
            yield
    finally:
        torch.set_deterministic_debug_mode("default")
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = previous


def nondeterministic_operations() -> list[str]:
    """Return the names of the operations without a deterministic algorithm that this process has run."""
    return sorted(_seen_operations)


@contextmanager
def _alerts_as_notes() -> Iterator[None]:
    """Replace torch's warnings of operations without a deterministic algorithm by one note per operation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("once", f".*{WITHOUT_ALTERNATIVE}", UserWarning)
        show = warnings.showwarning

        def show_note(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            operation, separator, _ = str(message).partition(f" {WITHOUT_ALTERNATIVE}")
            if not separator:
                show(message, *args, **kwargs)
            elif operation not in HARMLESS:
                _seen_operations.add(operation)
                emit_note(f"{operation} has no deterministic algorithm: the last digits may differ between runs")

        warnings.showwarning = show_note
        yield


@dataclass(frozen=True)
class _Settings:
    """The settings of TF32. PyTorch requires that both interfaces agree.

    flags: ``allow_tf32`` by owner, without those that contradict ``fp32_precision``, which cannot be read.
    values: own value and value in effect of ``fp32_precision`` of each of ``_owners``. The own value is ``none`` for one that follows
    the property of all operations on CUDA.
    matmul_precision: of ``torch.set_float32_matmul_precision``.
    """

    flags: dict[Any, bool]
    values: list[tuple[str, str]]
    matmul_precision: str = ""

    @classmethod
    def read(cls) -> _Settings:
        """Return the current settings."""
        flags, precision = {}, ""
        for owner in (torch.backends.cuda.matmul, torch.backends.cudnn):
            with suppress(RuntimeError):
                flags[owner] = owner.allow_tf32
        with suppress(RuntimeError):
            precision = torch.get_float32_matmul_precision()
        backends: Any = torch.backends
        common = _own_value(backends.cudnn, backends, backends.fp32_precision)
        values = [(_own_value(owner, backends.cudnn, common), owner.fp32_precision) for owner in _owners()]
        return cls(flags, values, precision)

    def write(self) -> None:
        """Make these settings."""
        for owner, is_allowed in self.flags.items():
            owner.allow_tf32 = is_allowed
        if self.matmul_precision == "medium":  # which ``allow_tf32`` does not tell from "high"
            mkldnn: Any = torch.backends.mkldnn
            cpu_value = mkldnn.matmul.fp32_precision
            torch.set_float32_matmul_precision("medium")
            mkldnn.matmul.fp32_precision = cpu_value
        for owner, (own, effective) in zip(_owners(), self.values, strict=True):
            owner.fp32_precision = own
            if owner.fp32_precision != effective:  # the initial state of convolutions since PyTorch 2.14 cannot be set
                owner.fp32_precision = effective


def _owners() -> tuple[Any, ...]:
    """Return the owners of ``fp32_precision`` of matrix products, convolutions and recurrent layers on CUDA."""
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn


def _own_value(owner: Any, parent: Any, parent_value: str) -> str:
    """Return the own value of ``fp32_precision``, or ``none`` if it follows a parent, whose own value is given.

    The property returns the value in effect, so the parent is changed for a moment.
    """
    values = set()
    for value in ("ieee", "tf32"):
        parent.fp32_precision = value
        values.add(owner.fp32_precision)
    parent.fp32_precision = parent_value
    return "none" if len(values) > 1 else str(values.pop())
