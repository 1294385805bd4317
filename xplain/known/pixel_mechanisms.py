"""Mechanisms that read single pixels or small neighborhoods: position, color, texture and number."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xplain.known.patches import LOADS, linear
from xplain.known.registry import mechanism
from xplain.known.truth import BLOCK, GRID, SIDE, Draw, Planted, sum_blocks

RADIUS = 2  # of the Gabor filter
PERIOD = 4.0  # of its wave, in pixels
TEXTURE = 8  # side of a textured square
DISC = 4.0  # radius of a disc
GREEN = 0.299 / 0.587  # green with the luminance of red, by ITU-R 601


def _convolution(weight: Tensor, bias: float | Tensor = 0.0, stride: int = 1) -> nn.Conv2d:
    """Return a convolution with this weight (out, in, h, w) and bias, without padding."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], stride=stride, dtype=torch.float64)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias))  # type: ignore[union-attr]
    return layer


def _score_of(weights: Tensor, constant: float = 0.0) -> nn.Linear:
    """Return the layer with the logits (Σ w x + constant, 0)."""
    return linear(torch.stack([weights, torch.zeros_like(weights)]), torch.tensor([constant, 0.0]))


def _distances(centers: Tensor) -> Tensor:
    """Return the distance (B, SIDE, SIDE) of each pixel from the centers (B, 2)."""
    axis = torch.arange(SIDE, dtype=torch.float64)
    return torch.hypot(axis[:, None] - centers[:, :1, None], axis - centers[:, 1:, None])


@mechanism("position", kind="value", summary="sum of a blob's pixels, from -1 at the left edge to 1 at the right edge")
def position(draw: Draw) -> Planted:
    """Σ c_p x_p / 32 with the mean x_p over channels; the contribution of a pixel is its term."""
    ramp = torch.linspace(-1, 1, SIDE, dtype=torch.float64).expand(SIDE, SIDE) / 32
    mean = _convolution(torch.full((1, 3, 1, 1), 1 / 3, dtype=torch.float64))
    distances = _distances(draw.uniform(draw.count, 2, low=6, high=SIDE - 7))
    bump = (1 - distances / 6).clamp(min=0)[:, None]
    images = bump * draw.uniform(draw.count, 3, SIDE, SIDE, low=0.5)
    terms = images.mean(dim=1, keepdim=True) * ramp
    network = nn.Sequential(mean, nn.Flatten(), _score_of(ramp.flatten()))
    return Planted(network, images, signs=terms.sign(), values=sum_blocks(terms))


@mechanism("colour", kind="set", summary="redness: a red disc counts, a green disc of the same luminance does not")
def colour(draw: Draw) -> Planted:
    """Σ ReLU(red - green - blue - 0.1) / 40; the units of the background are off by at least 0.2."""
    weight = torch.tensor([1.0, -1, -1], dtype=torch.float64)[None, :, None, None]
    network = nn.Sequential(
        _convolution(weight, -0.1), nn.ReLU(), nn.Flatten(), _score_of(torch.full((SIDE**2,), 1 / 40).double())
    )
    images = draw.uniform(draw.count, 3, SIDE, SIDE, low=0.3)
    images[:, 0] = draw.uniform(draw.count, SIDE, SIDE, high=0.5)
    sides = torch.tensor([[8.0, 8], [8, 23], [23, 8], [23, 23]], dtype=torch.float64)
    corners = torch.stack([sides[draw.order(4)[:2]] for _ in range(draw.count)])
    centers = corners + draw.uniform(draw.count, 2, 2, low=-2, high=2)
    brightness = draw.uniform(draw.count, 1, 1, low=0.7) * draw.uniform(draw.count, SIDE, SIDE, low=0.8)
    red, green = (_distances(centers[:, k]) <= DISC for k in (0, 1))
    images = torch.where((red | green)[:, None], torch.zeros_like(images), images)
    images[:, 0] = torch.where(red, brightness, images[:, 0])
    images[:, 1] = torch.where(green, brightness * GREEN, images[:, 1])
    return Planted(network, images, relevant=red[:, None].double())


def gabor_filter(horizontal: bool) -> Tensor:
    """Return an even Gabor filter (5, 5) with Σ = 0 along its wave in every line, and Σ |k| = 1."""
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    envelope = torch.exp(-(axis**2) / 4)
    wave = envelope * torch.cos(2 * math.pi * axis / PERIOD)
    wave = wave - wave.mean()
    kernel = envelope[:, None] * wave
    kernel = kernel / kernel.abs().sum()
    return kernel if horizontal else kernel.T


@mechanism(
    "texture",
    kind="set",
    summary="energy of a Gabor filter: stripes of one direction count, crossed and smooth ones do not",
)
def texture(draw: Draw) -> Planted:
    """Σ ReLU(Gabor * gray - 0.2) / 4; pixels within the radius of the filter around the stripes are not scored."""
    horizontal = draw.integer(2) == 0
    kernel = gabor_filter(horizontal)
    outputs = SIDE - 2 * RADIUS
    network = nn.Sequential(
        _convolution(kernel.expand(1, 3, -1, -1) / 3, -0.2),
        nn.ReLU(),
        nn.Flatten(),
        _score_of(torch.full((outputs**2,), 0.25).double()),
    )
    smooth = F.interpolate(draw.uniform(draw.count, 3, 4, 4), (SIDE, SIDE), mode="bicubic", align_corners=True)
    images = 0.5 + 0.1 * (smooth - 0.5)
    relevant = torch.zeros(draw.count, 1, SIDE, SIDE, dtype=torch.float64)
    axis = torch.arange(TEXTURE, dtype=torch.float64)
    stripes = (0.5 + 0.45 * torch.cos(2 * math.pi * axis / PERIOD)).expand(TEXTURE, TEXTURE)
    for i in range(draw.count):
        corners = torch.tensor([[3, 3], [3, 20], [20, 3], [20, 20]])[draw.order(4)[:2]]
        corners = corners + torch.tensor([[draw.integer(3), draw.integer(3)] for _ in range(2)])
        for (top, left), along in zip(corners.tolist(), (True, False), strict=True):
            rows, columns = slice(top, top + TEXTURE), slice(left, left + TEXTURE)
            images[i, :, rows, columns] = stripes if along == horizontal else stripes.T
            if along:
                ring = slice(top - RADIUS, top + TEXTURE + RADIUS), slice(left - RADIUS, left + TEXTURE + RADIUS)
                relevant[i, 0, ring[0], ring[1]] = math.nan
                relevant[i, 0, rows, columns] = 1
    return Planted(network, images, relevant=relevant, has_mixed_signs=True)  # dark stripes contribute negatively


@mechanism("count", kind="set", summary="number of dots, each of which counts 1 whatever its size: 1 to 4 dots")
def count(draw: Draw) -> Planted:
    """Σ min(1, ReLU(m - ½)) over the 4 x 4 cells, with a quarter of the red and green in a cell as m; blue noise is ignored."""
    weight = torch.tensor([0.25, 0.25, 0], dtype=torch.float64)[None, :, None, None].expand(1, 3, BLOCK, BLOCK)
    split = _convolution(torch.ones(2, 1, 1, 1, dtype=torch.float64), torch.tensor([-0.5, -1.5]))
    cells = torch.ones(GRID**2, dtype=torch.float64)
    network = nn.Sequential(
        _convolution(weight, stride=BLOCK), split, nn.ReLU(), nn.Flatten(), _score_of(torch.cat([cells, -cells]))
    )
    images = torch.zeros(draw.count, 3, SIDE, SIDE, dtype=torch.float64)
    parts = torch.zeros(draw.count, len(LOADS), SIDE, SIDE, dtype=torch.float64)
    effects = torch.full((draw.count, len(LOADS)), math.nan, dtype=torch.float64)
    for i in range(draw.count):
        images[i, 2] = draw.uniform(SIDE, SIDE) if LOADS[i % len(LOADS)] else 0.5
        for k, cell in enumerate(draw.order(GRID**2)[: i % len(LOADS) + 1].tolist()):
            side = 2 + draw.integer(2)
            top = BLOCK * (cell // GRID) + draw.integer(BLOCK - side + 1)
            left = BLOCK * (cell % GRID) + draw.integer(BLOCK - side + 1)
            brightness = draw.uniform(side, side, low=0.85)
            images[i, :2, top : top + side, left : left + side] = brightness
            parts[i, k, top : top + side, left : left + side] = 1
            effects[i, k] = 1
    relevant = parts.amax(dim=1, keepdim=True)
    return Planted(network, images, relevant=relevant, parts=parts, effects=effects, is_even=True)
