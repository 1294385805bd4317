"""Counts of what operations on the emulated device cost on CUDA, by operation and line of the program."""

from __future__ import annotations

import sys
import types
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

Counts = Counter[tuple[str, str]]  # by operation and "file:line"
# Operations that read a value, or whose result has a shape that depends on values.
SYNCHRONIZING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive",
    "is_nonzero",
}  # fmt: skip
INDEXING = {
    "index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put",
}  # fmt: skip
MATRIX_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
# Operations of floats that may differ between runs on CUDA, from the documentation of torch.use_deterministic_algorithms: those that have a
# deterministic alternative, which the mode selects, and those that have none.
WITH_ALTERNATIVE = {
    "index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "cumsum",
    "cumsum_", "index_put", "index_put_", "_index_put_impl_", "replication_pad2d_backward",
    "embedding_dense_backward", "max_pool3d_with_indices_backward",
}  # fmt: skip
WITHOUT_ALTERNATIVE = {
    "histc", "put_", "median", "adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_linear1d_backward",
    "reflection_pad2d_backward", "grid_sampler_2d_backward", "avg_pool3d_backward", "max_unpool2d",
}  # fmt: skip


@dataclass
class DeviceLog:
    """Counts of operations on the device.

    path: only lines of files whose path contains this are named. row_limit: calls with more rows run out of memory.
    synchronizations: the program waits for the device. uploads: copies to the device, from "pageable" or "pinned" memory.
    nondeterministic: may differ between runs. tf32: may be rounded to TF32. operations: kernels to launch.
    waits: calls of ``torch.cuda.synchronize``. autocast: the type of lower precision inside ``torch.autocast``.
    """

    path: str = ""
    row_limit: int | None = None
    synchronizations: Counts = field(default_factory=Counter)
    uploads: Counts = field(default_factory=Counter)
    nondeterministic: Counts = field(default_factory=Counter)
    tf32: Counts = field(default_factory=Counter)
    operations: int = 0
    waits: int = 0
    autocast: torch.dtype | None = None

    def clear(self) -> None:
        """Reset the counts."""
        for counts in (self.synchronizations, self.uploads, self.nondeterministic, self.tf32):
            counts.clear()
        self.operations = self.waits = 0

    def find_line(self) -> str:
        """Return ``file:line`` of the innermost running line of the program, or ``?``."""
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and not (self.path and self.path in frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return "?"
        return f"{frame.f_code.co_filename.rpartition(self.path)[2]}:{frame.f_lineno}"

    def count_copy(self, *, from_device: bool, to_device: bool, pinned: bool) -> None:
        """Count a copy between devices."""
        if from_device and not to_device:
            self.synchronizations["copy to the CPU", self.find_line()] += 1
        elif to_device and not from_device:
            self.uploads["pinned" if pinned else "pageable", self.find_line()] += 1

    def count_operation(self, name: str, arguments: Any, options: Any, inputs: list[torch.Tensor]) -> None:
        """Count an operation other than a copy. inputs: the tensors on the device among the arguments."""
        if not inputs:
            return
        index = arguments[1] if name in INDEXING else ()
        if any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in index):
            self.synchronizations["boolean mask", self.find_line()] += 1
        elif name in SYNCHRONIZING or (name in ("repeat_interleave", "bincount") and not options.get("output_size")):
            self.synchronizations[name, self.find_line()] += 1
        if _may_use_tf32(name) and inputs[0].dtype == torch.float32:
            self.tf32[name, self.find_line()] += 1
        if _is_nondeterministic(name, arguments, options, inputs):
            self.nondeterministic[name, self.find_line()] += 1


def _may_use_tf32(name: str) -> bool:
    """Return whether the current settings let an operation in float32 use TF32."""
    if "convolution" in name:
        return torch.backends.cudnn.conv.fp32_precision == "tf32"
    return name in MATRIX_PRODUCTS and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _is_nondeterministic(name: str, arguments: Any, options: Any, inputs: list[torch.Tensor]) -> bool:
    """Return whether an operation may differ between runs under the current settings."""
    if not any(tensor.is_floating_point() for tensor in inputs):
        return False
    if "convolution" in name:
        return not (torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled())
    if name in INDEXING and not (options.get("accumulate") or (len(arguments) > 3 and arguments[3] is True)):
        return False
    if name in WITH_ALTERNATIVE:
        return not torch.are_deterministic_algorithms_enabled()
    return name in WITHOUT_ALTERNATIVE
