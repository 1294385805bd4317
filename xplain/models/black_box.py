"""Models that are called with images and return numbers only, without gradients, layers or parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, XplainError, first_line, is_out_of_memory


class ModelCallError(InputError, RuntimeError):
    """Raised when a black box fails on images. A RuntimeError, like the error of a module that does not accept a shape."""


class BlackBox(nn.Module):
    """Base class of black boxes.

    fixed_rows: the number of images of each call, or None for any number. Other numbers are split, and the last call is padded
    with copies of its last image.
    """

    fixed_rows: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> BlackBox:
        """Return self, because a black box has no parameters or state to copy."""
        return self

    def forward(self, images: Tensor) -> object:
        """Return the output for images (B, C, H, W) as a tensor (B, classes), or as a dictionary of tensors.

        Raises ModelCallError if the call fails or does not return one row per image.
        """
        parts = [self._call_padded(chunk) for chunk in images.detach().split(self.fixed_rows or len(images))]
        if isinstance(parts[0], dict):
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return torch.cat(parts)

    def rows_run(self, rows: int) -> int:
        """Return how many rows the model runs for ``rows`` images, with those of the padding."""
        count = self.fixed_rows or 1
        return -(-rows // count) * count

    def call(self, images: Tensor) -> object:
        """Return the output for images (B, C, H, W), with ``fixed_rows`` images if that is set."""
        raise NotImplementedError

    def _call_padded(self, images: Tensor) -> Any:
        """Call the model on at most ``fixed_rows`` images and return its output for them as tensors."""
        rows = len(images)
        missing = self.rows_run(rows) - rows
        if missing:
            images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
        try:
            output = self.call(images)
        except XplainError:
            raise
        except Exception as error:  # black boxes raise many types
            if is_out_of_memory(error):
                raise
            raise ModelCallError(f"the model failed: {type(error).__name__}: {first_line(error)}") from error
        if isinstance(output, Mapping):
            tensors = {str(name): _to_tensor(value) for name, value in output.items()}
            return {name: _select_rows(value, rows, images) for name, value in tensors.items() if value is not None}
        tensor = _to_tensor(output)
        if tensor is None:
            raise ModelCallError(f"the model returned {type(output).__name__} instead of an array (images, classes)")
        return _select_rows(tensor, rows, images)


class FunctionModel(BlackBox):
    """A function of images (B, C, H, W), a NumPy array or a tensor, to an array or tensor (B, classes).

    At the first call the function gets an array, and if it fails a tensor; later calls use what it accepted.
    """

    def __init__(self, function: Callable[[Any], object]) -> None:
        super().__init__()
        self.function = function
        self._takes_arrays: bool | None = None  # None: not known yet

    def call(self, images: Tensor) -> object:
        """Return the output of the function. The images are copies that it may modify."""
        with torch.no_grad():
            if self._takes_arrays is not None:
                return self._call_as(images, arrays=self._takes_arrays)
            try:
                output = self._call_as(images, arrays=True)
            except Exception as array_error:
                output = self._call_with_tensor(images, array_error)
                self._takes_arrays = False
            else:
                self._takes_arrays = True
        return output

    def _call_with_tensor(self, images: Tensor, array_error: Exception) -> object:
        """Return the output for a tensor. If that fails too, raise the error that describes the fault."""
        try:
            return self._call_as(images, arrays=False)
        except Exception:
            if isinstance(array_error, (TypeError, AttributeError)):
                raise  # the function expects a tensor
            raise array_error from None

    def _call_as(self, images: Tensor, *, arrays: bool) -> object:
        copied = images.clone(memory_format=torch.contiguous_format)
        return self.function(copied.cpu().numpy() if arrays else copied)


def _to_tensor(value: object) -> Tensor | None:
    """Return an array, tensor or nested list of numbers as a tensor, or None for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of different lengths
        return None
    if array.dtype.kind not in "fiub":
        return None
    return torch.from_numpy(np.ascontiguousarray(array))


def _select_rows(output: Tensor, rows: int, images: Tensor) -> Tensor:
    """Return the first ``rows`` rows of an output in the floating-point type and on the device of the images; (B,) as (B, 1).

    Raises ModelCallError unless the output has one row per image.
    """
    if output.ndim == 0 or len(output) != len(images):
        raise ModelCallError(f"the model returned an array of shape {tuple(output.shape)} for {len(images)} images")
    output = output[:rows].to(images.device)
    if output.ndim == 1:
        output = output[:, None]
    return output.to(images.dtype) if output.is_floating_point() else output
