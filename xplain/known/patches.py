"""Networks that read the means of a few 4 x 4 patches, and images with given means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xplain.known.truth import BLOCK, GRID, Draw, Planted, from_blocks

PATCHES = GRID**2
LOADS = (PATCHES, PATCHES, 8, 0)  # patches with noise among those that the score ignores, by image; the others are gray
GRAY = 0.5


def patch_means() -> nn.Conv2d:
    """Return the fixed convolution from pixels to the mean of each patch (B, 1, GRID, GRID)."""
    layer = nn.Conv2d(3, 1, BLOCK, stride=BLOCK, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, 1 / (3 * BLOCK**2))
    return layer


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer with this weight (out, in) and bias (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def place_columns(weight: Tensor, places: Tensor) -> Tensor:
    """Return a weight (out, PATCHES) that reads the patches at ``places`` (k,) with ``weight`` (out, k)."""
    wide = weight.new_zeros(len(weight), PATCHES)
    wide[:, places] = weight
    return wide


def relu_network(
    places: Tensor,
    units: Sequence[tuple[Sequence[float], float]],
    outputs: Sequence[Sequence[float]],
    constants: Sequence[float],
) -> nn.Sequential:
    """Return a network with the logits Σ_h outputs[c][h] · ReLU(w_h · a + b_h) + constants[c] and a last logit of 0.

    places: (k,) the patches with the means a. units: (w_h, b_h) per hidden unit, with k weights.
    """
    weight = torch.tensor([list(row) for row, _ in units], dtype=torch.float64)
    bias = torch.tensor([shift for _, shift in units], dtype=torch.float64)
    last = torch.tensor([*map(list, outputs), [0.0] * len(units)], dtype=torch.float64)
    shifts = torch.tensor([*constants, 0.0], dtype=torch.float64)
    return nn.Sequential(
        patch_means(), nn.Flatten(), linear(place_columns(weight, places), bias), nn.ReLU(), linear(last, shifts)
    )


def draw_images(draw: Draw, places: Tensor, means: Tensor) -> Tensor:
    """Return images (B, 3, SIDE, SIDE) in which the patches at ``places`` (k,) have the means (B, k).

    The other patches hold noise or gray, see LOADS. Half of the noise patches have the mean of one of the places, so that the content
    of a patch does not tell whether it matters.
    """
    count, used = means.shape
    levels = torch.full((count, PATCHES), GRAY, dtype=torch.float64)
    spread = torch.zeros(count, PATCHES, dtype=torch.float64)
    others = torch.ones(PATCHES, dtype=torch.bool)
    others[places] = False
    free = others.nonzero()[:, 0]
    copied = torch.zeros(count, PATCHES, dtype=torch.bool)
    for i in range(count):
        noisy = free[draw.order(len(free))[: LOADS[i % len(LOADS)]]]
        spread[i, noisy] = 1
        alike = noisy[: len(noisy) // 2]
        levels[i, alike] = means[i, torch.randint(used, (len(alike),), generator=draw.generator)]
        copied[i, alike] = True
    levels[:, places], copied[:, places] = means, True
    noise = draw.uniform(count, PATCHES, 3 * BLOCK**2)
    centered = noise - noise.mean(dim=2, keepdim=True)
    room = torch.minimum(levels, 1 - levels)[..., None] / centered.abs().amax(dim=2, keepdim=True)
    with_mean = levels[..., None] + centered * room
    flat = levels[..., None].expand_as(noise)
    values = torch.where(copied[..., None], with_mean, torch.where(spread[..., None] > 0, noise, flat))
    return _to_image(values).clamp(0, 1)


def _to_image(values: Tensor) -> Tensor:
    """Return images (B, 3, SIDE, SIDE) of patches (B, PATCHES, 3 · BLOCK²)."""
    count = len(values)
    grid = values.reshape(count, GRID, GRID, 3, BLOCK, BLOCK)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, GRID * BLOCK, GRID * BLOCK)


def mark_blocks(count: int, places: Tensor, value: float = 1.0, fill: float = 0.0) -> Tensor:
    """Return pixels (``count``, 1, SIDE, SIDE) with ``value`` in the patches at ``places`` and ``fill`` elsewhere."""
    blocks = torch.full((count, PATCHES), fill, dtype=torch.float64)
    blocks[:, places] = value
    return from_blocks(blocks)


def plant_units(
    draw: Draw,
    means: Sequence[float],
    units: Sequence[tuple[Sequence[float], float]],
    output: Sequence[float],
    constant: float = 0.0,
    *,
    relevant: Sequence[float] | None = None,
    signs: Sequence[float] | None = None,
    values: Sequence[float] | None = None,
) -> Planted:
    """Return the score ``constant`` + Σ output[h] · ReLU(w_h · a + b_h) of patches at drawn places with the given means.

    relevant: 1, 0 or NaN per patch, see ``Planted``; defaults to 1. signs, values: per patch.
    """
    places = draw.order(PATCHES)[: len(means)]
    images = draw_images(draw, places, torch.tensor(means, dtype=torch.float64).expand(draw.count, -1))
    network = relu_network(places, units, [output], [constant])
    marks = [1.0] * len(means) if relevant is None else relevant
    return Planted(
        network,
        images,
        relevant=spread_values(draw.count, places, marks),
        signs=None if signs is None else spread_values(draw.count, places, signs),
        values=None if values is None else place_values(draw.count, places, values),
    )


def place_values(count: int, places: Tensor, values: Sequence[float]) -> Tensor:
    """Return blocks (``count``, PATCHES) with the values of the patches at ``places`` and 0 elsewhere."""
    blocks = torch.zeros(count, PATCHES, dtype=torch.float64)
    blocks[:, places] = torch.tensor(values, dtype=torch.float64)
    return blocks


def spread_values(count: int, places: Tensor, values: Sequence[float]) -> Tensor:
    """Return the same for every pixel: (``count``, 1, SIDE, SIDE)."""
    return from_blocks(place_values(count, places, values))
