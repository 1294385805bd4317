"""Maps of layers: sums over the channels, upsampling to the images, and the mean over several layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.oracle.layers import LayerResult


def positive_sum(channels: Tensor) -> Tensor:
    """Return the positive part (B, 1, h, w) of the sum of channels (B, K, h, w)."""
    return channels.sum(dim=1, keepdim=True).clamp(min=0)


def average_layers(maps: Sequence[Tensor], x: Tensor, *, scale: bool) -> Tensor:
    """Return the mean (B, 1, H, W) of the upsampled maps (B, 1, h, w) of layers.

    scale: scale each map of several layers to [0, 1] before it is upsampled. A single map is never scaled.
    """
    if len(maps) == 1:
        return upsample(maps[0], x)
    upsampled = [upsample(scale_to_unit(coarse) if scale else coarse, x) for coarse in maps]
    return torch.stack(upsampled).mean(dim=0)


def upsample(maps: Tensor, x: Tensor) -> Tensor:
    """Return maps (B, K, h, w) at the size and in the type of the images x: bilinear, with half-pixel centers."""
    return F.interpolate(maps, size=x.shape[-2:], mode="bilinear", align_corners=False).to(x.dtype)


def scale_to_unit(maps: Tensor) -> Tensor:
    """Return each map of (B, K, H, W) scaled to [0, 1]; a constant map becomes 0."""
    low = maps.amin(dim=(2, 3), keepdim=True)
    high = maps.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny), 0)


def name_layers(probes: Sequence[LayerResult]) -> str:
    """Return the names of the layers as users write them: ``layer3+layer4``."""
    return "+".join(probe.layer for probe in probes)
