"""AttEXplore, one image and one copy at a time, with SciPy's cosine transform and PyTorch's resizing and padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.fft import dctn, idctn
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


class Draw(NamedTuple):
    """Random draws of one copy: noise and scale (C, H, W), sides and offsets; sides is None for copies without resizing."""

    noise: Tensor
    scale: Tensor
    sides: tuple[int, int] | None
    offsets: tuple[int, int]


def diversify(image: Tensor, draw: Draw) -> Tensor:
    """Enlarge the image, pad it with black, and resize it back."""
    if draw.sides is None:
        return image
    height, width = image.shape[1:]
    canvas = int(height * 1.15), int(width * 1.15)
    enlarged = F.interpolate(image[None], size=draw.sides, mode="bilinear", align_corners=False)
    bottom = canvas[0] - draw.sides[0] - draw.offsets[0]
    right = canvas[1] - draw.sides[1] - draw.offsets[1]
    padded = F.pad(enlarged, (draw.offsets[1], right, draw.offsets[0], bottom))
    return F.interpolate(padded, size=(height, width), mode="bilinear", align_corners=False)[0]


def attexplore(
    f: Scalar, image: Tensor, draws: list[list[Draw]], *, radius: float, smooth: bool, momentum: float
) -> Tensor:
    """Run AttEXplore on one image. draws: one list of copies per step."""
    total, velocity, point = torch.zeros_like(image), torch.zeros_like(image), image
    for copies in draws:
        mean_gradient = torch.zeros_like(image)
        for draw in copies:
            spectrum = dctn((point + draw.noise).numpy(), axes=(1, 2)) * draw.scale.numpy()
            copy = torch.from_numpy(idctn(spectrum, axes=(1, 2)))
            mean_gradient += gradient(lambda u, draw=draw: f(diversify(u, draw)), copy) / len(copies)
        if smooth:
            mean_gradient = _gaussian(mean_gradient)
        velocity = momentum * velocity + mean_gradient / mean_gradient.abs().mean()
        next_point = point + radius / len(draws) * velocity.sign()
        next_point = (image + (next_point - image).clamp(-radius, radius)).clamp(0, 1)
        total = total + velocity * (next_point - point)
        point = next_point
    return total


def _gaussian(maps: Tensor) -> Tensor:
    """Convolve with the normal density at -3 .. 3, an outer product that sums to one; zeros beyond the border."""
    line = torch.distributions.Normal(0.0, 1.0).log_prob(torch.linspace(-3, 3, 7, dtype=maps.dtype)).exp()
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum())[None, None]
    return torch.stack([F.conv2d(plane[None, None], kernel, padding=3)[0, 0] for plane in maps])
