"""Find the channel dimension of outputs by the types of the modules that compute, consume or contain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

ChannelAxis = Literal["first", "last", "unknown"]

CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.LocalResponseNorm,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention)
# Modules whose output has the layout of their input.
ELEMENTWISE_PACKAGES = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
ELEMENTWISE_NAMES = ("Identity", "DropPath", "StochasticDepth", "LayerScale")


@dataclass(eq=False)
class ModuleRun:
    """A run of a module. name: of the module. output: its only output. input: its first input, if that is a tensor."""

    name: str
    module: nn.Module
    output: Tensor
    input: Tensor | None


def channel_axis(module: nn.Module) -> ChannelAxis:
    """Return the channel dimension of a module's four-dimensional input and output, by its type.

    By torch's convention, a module whose class name ends in 2d takes (B, C, H, W): pooling, padding, and norms such as LayerNorm2d.
    """
    data_format = getattr(module, "data_format", None)  # of the norms of ConvNeXt
    if isinstance(module, CHANNELS_FIRST) or type(module).__name__.lower().endswith("2d"):
        return "first"
    if data_format == "channels_first":
        return "first"
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
        return "unknown"
    if isinstance(module, CHANNELS_LAST):
        return "last"
    return "unknown"


def find_channel_axes(runs: Sequence[ModuleRun]) -> list[ChannelAxis]:
    """Return the channel dimension of the four-dimensional output of each run, in execution order.

    It is that of the module that computes the tensor, of the modules that consume it, of the input of an element-wise module,
    or of the outputs of the same shape inside a container, in this order. Contradictions count as unknown.
    """
    by_tensor: dict[int, set[ChannelAxis]] = {}
    for run in runs:
        axis = channel_axis(run.module)
        if axis == "unknown":
            continue
        by_tensor.setdefault(id(run.output), set()).add(axis)
        if run.input is not None:
            by_tensor.setdefault(id(run.input), set()).add(axis)
    axes: list[ChannelAxis] = []
    for index, run in enumerate(runs):
        axis = _only(by_tensor.get(id(run.output), set()))
        if axis == "unknown" and run.input is not None and _is_elementwise(run):
            axis = _only(by_tensor.get(id(run.input), set()))
        if axis == "unknown" and id(run.output) not in by_tensor:
            axis = _axis_of_contents(runs[:index], axes, run)
        if axis != "unknown":
            by_tensor.setdefault(id(run.output), set()).add(axis)
        axes.append(axis)
    return axes


def _only(axes: set[ChannelAxis]) -> ChannelAxis:
    """Return the only element, or ``unknown``."""
    return next(iter(axes)) if len(axes) == 1 else "unknown"


def _is_elementwise(run: ModuleRun) -> bool:
    kind = type(run.module)
    is_known = kind.__module__ in ELEMENTWISE_PACKAGES or kind.__name__ in ELEMENTWISE_NAMES
    return is_known and run.input is not None and run.input.shape == run.output.shape


def _axis_of_contents(earlier: Sequence[ModuleRun], axes: Sequence[ChannelAxis], run: ModuleRun) -> ChannelAxis:
    """Return the channel dimension on which the outputs of the same shape inside a container agree."""
    inside: set[ChannelAxis] = {
        axis
        for other, axis in zip(earlier, axes, strict=True)
        if axis != "unknown" and other.name.startswith(f"{run.name}.") and other.output.shape == run.output.shape
    }
    return _only(inside)
