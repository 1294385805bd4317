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
    """Return the gradient of a convolution with respect to its input: a convolution, or a transposed one for strides with groups."""
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
    if groups == 1 and len(stride) == 2 and all(step == 1 for step in dilation):
        return _strided_input_gradient(gradient, x, weight, stride, padding), None, None
    # groups, dilation or one axis: with strides, OpenVINO may still confuse the weights, which the check of the engine finds
    extra = [x.shape[2 + i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in dims]
    return ATEN.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups), None, None


def _strided_input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Return the gradient of a convolution with strides: one convolution for all phases, the positions of pixels modulo the stride.

    A transposed convolution would be wrong: OpenVINO confuses its weights with those of the forward pass where both have one shape.
    """
    kernel = weight.shape[2:]
    taps = [_ceil_divide(kernel[i], stride[i]) for i in range(2)]  # of each phase
    phases = [min(kernel[i], stride[i]) for i in range(2)]  # those of other pixels are zero
    weight = nn.functional.pad(weight, (0, taps[1] * phases[1] - kernel[1], 0, taps[0] * phases[0] - kernel[0]))
    weight = weight.unflatten(3, (taps[1], phases[1])).unflatten(2, (taps[0], phases[0])).flip(2, 4)
    weight = weight.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)
    rest = [count - 1 for count in taps]
    values = ATEN.convolution(gradient, weight, None, [1, 1], rest, [1, 1], False, [0, 0], 1)
    return _crop(_interleave(values.unflatten(1, (x.shape[1], *phases)), stride), padding, x.shape[2:])


def _interleave(values: Tensor, stride: Sequence[int]) -> Tensor:
    """Return an image (1, C, H * stride, W * stride) with the values (1, C, phases, phases, H, W) of its phases; the others are zero."""
    values = values.permute(0, 1, 4, 2, 5, 3)
    missing = [stride[i] - values.shape[3 + 2 * i] for i in range(2)]
    if any(missing):
        values = nn.functional.pad(values, (0, missing[1], 0, 0, 0, missing[0]))
    return values.flatten(4, 5).flatten(2, 3)


def _crop(image: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return the part of an image (1, C, ...) from ``start`` with ``size``; what lies beyond the image is zero."""
    rows, columns = (slice(start[i], start[i] + size[i]) for i in range(2))
    image = image[:, :, rows, columns]
    missing = [size[i] - image.shape[2 + i] for i in range(2)]
    return nn.functional.pad(image, (0, missing[1], 0, missing[0])) if any(missing) else image


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
    shares, rest = list[Tensor](), windows.surround(gradient)
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
    return windows.add([windows.surround(gradient / (divisor or windows.count))] * windows.count)


class _Windows:
    """The windows of a pooling from x (1, C, H, W) to y (1, C, h, w), with those around them that overlap them.

    The windows around them make the sum of overlapping windows a sum of slices, which OpenVINO computes faster than paddings.
    """

    def __init__(
        self, x: Tensor, y: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        self.size, self.windows = x.shape[2:], y.shape[2:]
        self.stride, self.padding = stride, padding
        self.offsets = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
        self.around = [_ceil_divide(kernel[i], stride[i]) - 1 for i in range(2)]  # windows on each side

    @property
    def count(self) -> int:
        """The number of pixels of a window."""
        return len(self.offsets)

    def surround(self, y: Tensor) -> Tensor:
        """Return values (1, C, h, w) of windows with zeros for the windows around them."""
        rows, columns = self.around
        return nn.functional.pad(y, (columns, columns, rows, rows))

    def cut(self, x: Tensor) -> list[Tensor]:
        """Return the values of x at each pixel of the windows and of the windows around them."""
        before = [self.around[i] * self.stride[i] + self.padding[i] for i in range(2)]
        counts = [self.windows[i] + 2 * self.around[i] for i in range(2)]
        after = [(counts[i] + self.around[i]) * self.stride[i] - before[i] - self.size[i] for i in range(2)]
        x = nn.functional.pad(x, (0, min(after[1], 0), 0, min(after[0], 0)))
        x = nn.functional.pad(x, (before[1], max(after[1], 0), before[0], max(after[0], 0)), value=LOWEST)
        (step_h, step_w), (rows, columns) = self.stride, counts
        return [
            x[:, :, i : i + (rows - 1) * step_h + 1 : step_h, j : j + (columns - 1) * step_w + 1 : step_w]
            for i, j in self.offsets
        ]

    def add(self, values: Sequence[Tensor]) -> Tensor:
        """Return the sum (1, C, H, W) of the values at each pixel of the windows, the reverse of ``cut``."""
        step_h, step_w = self.stride
        phases = [self._add_phase(values, i, j) for i in range(step_h) for j in range(step_w)]
        values_of_phases = torch.stack(phases, dim=2).unflatten(2, (step_h, step_w))
        return _crop(_interleave(values_of_phases, self.stride), self.padding, self.size)

    def _add_phase(self, values: Sequence[Tensor], row: int, column: int) -> Tensor:
        """Return the sum at every pixel whose distance from the first one, modulo the stride, is (row, column)."""
        height, width = (self.windows[i] + self.around[i] for i in range(2))
        parts = []
        for value, (i, j) in zip(values, self.offsets, strict=True):
            if (i % self.stride[0], j % self.stride[1]) == (row, column):
                top, left = self.around[0] - i // self.stride[0], self.around[1] - j // self.stride[1]
                parts.append(value[:, :, top : top + height, left : left + width])
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(values[0][:, :, :height, :width])


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
