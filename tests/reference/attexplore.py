"""AttEXplore, one image and one copy at a time, with SciPy's cosine transform and torch's resizing and padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.fft import dctn, idctn
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


class Draw(NamedTuple):
    """What chance decides about one copy: noise and scales (C, H, W), sides and offsets; sides is None without resizing."""

    noise: Tensor
    scale: Tensor
    sides: tuple[int, int] | None
    offsets: tuple[int, int]


def diversify(image: Tensor, draw: Draw) -> Tensor:
    """Enlarged, padded with black, shrunk back."""
    if draw.sides is None:
        return image
    height, width = image.shape[1:]
    most = int(height * 1.15), int(width * 1.15)
    large = F.interpolate(image[None], size=draw.sides, mode="bilinear", align_corners=False)
    down, across = most[0] - draw.sides[0] - draw.offsets[0], most[1] - draw.sides[1] - draw.offsets[1]
    padded = F.pad(large, (draw.offsets[1], across, draw.offsets[0], down))
    return F.interpolate(padded, size=(height, width), mode="bilinear", align_corners=False)[0]


def attexplore(
    f: Scalar, image: Tensor, draws: list[list[Draw]], *, radius: float, smooth: bool, momentum: float
) -> Tensor:
    """draws: one list of copies for each step."""
    total, memory, point = torch.zeros_like(image), torch.zeros_like(image), image
    for copies in draws:
        slope = torch.zeros_like(image)
        for draw in copies:
            spectrum = dctn((point + draw.noise).numpy(), axes=(1, 2)) * draw.scale.numpy()
            copy = torch.from_numpy(idctn(spectrum, axes=(1, 2)))
            slope += gradient(lambda u, draw=draw: f(diversify(u, draw)), copy) / len(copies)
        if smooth:
            slope = _gaussian(slope)
        memory = momentum * memory + slope / slope.abs().mean()
        moved = point + radius / len(draws) * memory.sign()
        moved = (image + (moved - image).clamp(-radius, radius)).clamp(0, 1)
        total = total + memory * (moved - point)
        point = moved
    return total


def _gaussian(maps: Tensor) -> Tensor:
    """The normal density at -3 .. 3, as an outer product that sums to one; zeros around."""
    line = torch.distributions.Normal(0.0, 1.0).log_prob(torch.linspace(-3, 3, 7, dtype=maps.dtype)).exp()
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum())[None, None]
    return torch.stack([F.conv2d(plane[None, None], kernel, padding=3)[0, 0] for plane in maps])
