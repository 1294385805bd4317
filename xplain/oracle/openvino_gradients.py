"""Backward passes in operations that OpenVINO knows: of convolutions, poolings, activations and normalizations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ATEN = torch.ops.aten
# Operations that OpenVINO does not know, but whose decompositions it does.
DECOMPOSED = (
    ATEN.hardtanh_backward,
    ATEN.hardswish_backward,
    ATEN.hardsigmoid_backward,
    ATEN.leaky_relu_backward,
    ATEN.elu_backward,
    ATEN.gelu_backward,
    ATEN.silu_backward,
    ATEN.sigmoid_backward,
    ATEN.tanh_backward,
    ATEN.softplus_backward,
    ATEN.threshold_backward,
    ATEN._softmax_backward_data,
    ATEN._log_softmax_backward_data,
    ATEN.log_sigmoid_backward,
    ATEN.native_batch_norm_backward,
    ATEN.native_layer_norm,
    ATEN.native_layer_norm_backward,
    ATEN.native_group_norm,
    ATEN.native_group_norm_backward,
    ATEN.upsample_bilinear2d_backward,
)
LOWEST = float(torch.finfo(torch.float32).min)  # the padding of a max-pooling


def gradient_decompositions() -> dict[Any, Callable[..., Any]]:
    """Return replacements of operations, in particular of backward passes, by operations that OpenVINO knows."""
    from torch._decomp import get_decompositions

    table: dict[Any, Callable[..., Any]] = dict(get_decompositions(DECOMPOSED))
    table[ATEN.convolution_backward.default] = _convolution_input_gradient
    table[ATEN.max_pool2d_with_indices_backward.default] = _max_pool_gradient
    table[ATEN.avg_pool2d_backward.default] = _average_pool_gradient
    table[ATEN._adaptive_avg_pool2d_backward.default] = _adaptive_average_gradient
    return table


def _convolution_input_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Return the gradient of a convolution with respect to its input: a convolution if the stride is 1, else a transposed one."""
    if transposed or list(wanted) != [True, False, False]:
        raise NotImplementedError("the gradient of a transposed convolution or of its weights")
    dims = range(len(stride))
    reach = [dilation[i] * (weight.shape[2 + i] - 1) for i in dims]
    if all(step == 1 for step in stride) and all(reach[i] >= padding[i] for i in dims):
        flipped = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip([2 + i for i in dims])
        rest = [reach[i] - padding[i] for i in dims]
        return (
            ATEN.convolution(gradient, flipped, None, stride, rest, dilation, False, [0] * len(stride), groups),
            None,
            None,
        )
    extra = [x.shape[2 + i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in dims]
    return ATEN.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups), None, None


def _max_pool_gradient(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Return the gradient of a max-pooling with respect to its input: that of a window goes to its first maximum, in rows."""
    if list(dilation) != [1, 1]:
        raise NotImplementedError("the gradient of a dilated max-pooling")
    windows = _Windows(x, gradient, kernel, stride or kernel, padding)
    values = windows.cut(x)
    largest = values[0]
    for value in values[1:]:
        largest = torch.maximum(largest, value)
    shares, rest = list[Tensor](), gradient
    for value in values:
        share = torch.where(value == largest, rest, 0.0)
        shares.append(share)
        rest = rest - share
    return windows.add(shares)


def _average_pool_gradient(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """Return the gradient of an average-pooling with respect to its input."""
    if ceil_mode or (any(padding) and not count_include_pad):
        raise NotImplementedError("the gradient of an average-pooling with windows of different sizes")
    windows = _Windows(x, gradient, kernel, stride or kernel, padding)
    return windows.add([gradient / (divisor or windows.count)] * windows.count)


class _Windows:
    """The windows of a pooling from x (1, C, H, W) to y (1, C, h, w)."""

    def __init__(
        self, x: Tensor, y: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        self.size, self.windows = x.shape[2:], y.shape[2:]
        self.stride, self.padding = stride, padding
        self.offsets = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
        # every window lies in the padded image, whose size is a multiple of the stride
        self.padded = [(y.shape[2 + i] + _ceil_divide(kernel[i], stride[i]) - 1) * stride[i] for i in range(2)]

    @property
    def count(self) -> int:
        """The number of pixels of a window."""
        return len(self.offsets)

    def cut(self, x: Tensor) -> list[Tensor]:
        """Return the values (1, C, h, w) of x at each pixel of the windows."""
        bottom, right = (self.padded[i] - self.padding[i] - self.size[i] for i in range(2))
        x = nn.functional.pad(x, (0, min(right, 0), 0, min(bottom, 0)))
        x = nn.functional.pad(x, (self.padding[1], max(right, 0), self.padding[0], max(bottom, 0)), value=LOWEST)
        (step_h, step_w), (rows, columns) = self.stride, self.windows
        return [
            x[:, :, i : i + (rows - 1) * step_h + 1 : step_h, j : j + (columns - 1) * step_w + 1 : step_w]
            for i, j in self.offsets
        ]

    def add(self, values: Sequence[Tensor]) -> Tensor:
        """Return the sum (1, C, H, W) of values (1, C, h, w) at each pixel of the windows, the reverse of ``cut``."""
        total = sum(self._spread(value, offset) for value, offset in zip(values, self.offsets, strict=True))
        assert isinstance(total, Tensor)
        rows, columns = (slice(self.padding[i], self.padding[i] + self.size[i]) for i in range(2))
        total = total[:, :, rows, columns]
        return nn.functional.pad(total, (0, self.size[1] - total.shape[3], 0, self.size[0] - total.shape[2]))

    def _spread(self, x: Tensor, offset: tuple[int, int]) -> Tensor:
        """Return a padded image of zeros with the values of x at ``offset`` and at every ``stride`` from there."""
        step_h, step_w = self.stride
        x = nn.functional.pad(x[:, :, :, None, :, None], (0, step_w - 1, 0, 0, 0, step_h - 1))
        x = x.flatten(4, 5).flatten(2, 3)
        bottom, right = (self.padded[i] - x.shape[2 + i] - offset[i] for i in range(2))
        return nn.functional.pad(x, (offset[1], right, offset[0], bottom))


def _adaptive_average_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of an adaptive average-pooling with respect to its input."""
    rows = _averaging_matrix(x.shape[2], gradient.shape[2]).to(gradient)
    columns = _averaging_matrix(x.shape[3], gradient.shape[3]).to(gradient)
    return rows.T @ gradient @ columns


def _averaging_matrix(size: int, windows: int) -> Tensor:
    """Return the matrix (windows, size) of an adaptive average-pooling of ``size`` values."""
    matrix = torch.zeros(windows, size)
    for window in range(windows):
        start, stop = window * size // windows, _ceil_divide((window + 1) * size, windows)
        matrix[window, start:stop] = 1 / (stop - start)
    return matrix


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
